// Steps of a computation, each for a stage of its own.
#ifndef TNA_STEPS_P4
#define TNA_STEPS_P4

// The compiler folds what follows each other into one action, and refuses it where that takes several stages: a step is
// a table of its own, without a key.
#define STEP(name) action name##_action() {
#define END_STEP(name) } \
    @hidden table name { actions = { name##_action; } const default_action = name##_action(); size = 1; }
#define DO(name) name.apply()

#endif
