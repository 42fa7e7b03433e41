/* Two-rate three-colour meters (RFC 2698, colour-blind), shared by all CPUs. */
#pragma once

enum colour { GREEN, YELLOW, RED };

/* A token bucket in billionths of a unit: what a nanosecond adds to it is `rate`. */
struct bucket {
    __u64 rate;   /* units per second */
    __u64 room;   /* the burst, in billionths */
    __u64 fill;   /* ns in which an empty bucket is full */
    __u64 tokens; /* billionths */
};

struct meter {
    struct bpf_spin_lock lock;
    __u32 configured;
    __u64 last;
    struct bucket committed;
    struct bucket peak;
};

#define METERS(name, size)                                                                         \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_ARRAY);                                                          \
        __uint(max_entries, size);                                                                 \
        __type(key, __u32);                                                                        \
        __type(value, struct meter);                                                               \
    } name SEC(".maps")

static __always_inline void refill(struct bucket *bucket, __u64 elapsed)
{
    __u64 more;

    if (elapsed >= bucket->fill) {
        bucket->tokens = bucket->room;
        return;
    }
    more = elapsed * bucket->rate;
    bucket->tokens = bucket->room - bucket->tokens < more ? bucket->room : bucket->tokens + more;
}

/* The colour of a packet of so many units; an unconfigured meter, or one that is not there, is green. */
static __always_inline __u32 meter_colour(void *meters, __u32 index, __u64 units)
{
    struct meter *meter = bpf_map_lookup_elem(meters, &index);
    __u64 cost = units * 1000000000ull;
    __u32 colour = GREEN;
    __u64 now, elapsed;

    if (!meter || !meter->configured)
        return GREEN;
    now = bpf_ktime_get_ns();
    bpf_spin_lock(&meter->lock);
    elapsed = now > meter->last ? now - meter->last : 0;
    meter->last += elapsed;
    refill(&meter->committed, elapsed);
    refill(&meter->peak, elapsed);
    if (meter->peak.tokens < cost) {
        colour = RED;
    } else if (meter->committed.tokens < cost) {
        colour = YELLOW;
        meter->peak.tokens -= cost;
    } else {
        meter->committed.tokens -= cost;
        meter->peak.tokens -= cost;
    }
    bpf_spin_unlock(&meter->lock);
    return colour;
}
