// What differs between the architectures: each has a twin of the other's file, and the controls know neither.
#ifndef TARGET_P4
#define TARGET_P4

#ifdef __TARGET_TOFINO__
#include "../tna/target.p4"
#else
#include "v1model_target.p4"
#endif

#endif
