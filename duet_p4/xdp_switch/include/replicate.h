/* Packets that pass more than once: clones, multicast, resubmit, recirculate.
 *
 * XDP cannot copy a packet but by a broadcast redirect. So where more than the packet itself is to come of a
 * packet, its scratch is kept in `states`, a tag with its number goes in front of the packet, and the packet
 * is sent into a veth pair of the switch's own: to the end behind which `again` makes item 0 of it, and, where
 * more is to be made, to the end behind which `next` sends it round for the item after. */
#pragma once

#define STATES 1024 /* packets between two passes at a time */
#define MAX_PASSES 64
#define TAG_MAGIC 0x44755034

/* EGRESS_NOW is EGRESS for a packet that need not wait for its port any more; see queue.h. */
enum stage { INGRESS, EGRESS, EGRESS_NOW, FINISH };

/* What a packet is, as standard_metadata.instance_type has it. */
enum kind {
    NORMAL = 0,
    INGRESS_CLONE = 1,
    EGRESS_CLONE = 2,
    RECIRCULATED = 4,
    REPLICA = 5,
    RESUBMITTED = 6,
};

struct tag {
    __u32 magic;
    __u32 generation;
    __u32 item;
    __u32 passes;
};

struct replica {
    __u32 port;
    __u32 rid;
};

struct range {
    __u32 first;
    __u32 count;
};

/* What is to be made of a packet: clones, and `others` of `kind`, which go on at `stage`. */
struct state {
    __u32 generation;
    __u32 stage;
    __u32 kind;
    __u32 others;
    struct range clones;
    __u32 first_replica;
    __u32 truncate_clones;
    struct scratch s;
};

struct state states[STATES];
__u32 last_generation;
struct replica replicas[REPLICAS];

/* 0: where `again` receives, 1: where `next` does, 2: where packets wait. */
struct {
    __uint(type, BPF_MAP_TYPE_DEVMAP);
    __uint(max_entries, 3);
    __type(key, __u32);
    __type(value, __u32);
} inner_ports SEC(".maps");

static __always_inline struct range range_of(__u64 range)
{
    struct range found = { .first = range >> 32, .count = (__u32)range };

    return found;
}

static __always_inline struct replica *replica_at(__u32 number)
{
    INDEX(at, number & (REPLICAS - 1));
    return &replicas[at];
}

static __noinline int copy_scratch(struct scratch *to, struct scratch *from)
{
    volatile any64 *target = (volatile any64 *)to;
    volatile any64 *source = (volatile any64 *)from;

    for (__u32 i = 0; i < sizeof(struct scratch) / 8; i++)
        target[i] = source[i];
    return 0;
}

/* The metadata of a packet that is new in all but what it preserves. */
static __always_inline void forget_metadata(struct scratch *s)
{
    __builtin_memset(&s->m, 0, sizeof(s->m));
}

static __always_inline struct state *state_of(__u32 generation)
{
    INDEX(at, generation & (STATES - 1));
    return &states[at];
}

static __always_inline int hand_on(struct xdp_md *ctx, bool more)
{
    if (replays)
        return SPREAD + more;
    return bpf_redirect_map(&inner_ports, 0, more ? BPF_F_BROADCAST : 0);
}

/* Keep the scratch of a packet, and what is to be made of it; the number that it is found by. */
static __always_inline __u32 keep(struct scratch *s, const struct state *what)
{
    __u32 generation = __sync_fetch_and_add(&last_generation, 1) + 1;
    struct state *to = state_of(generation);

    to->generation = ~generation;
    to->stage = what->stage;
    to->kind = what->kind;
    to->others = what->others;
    to->clones = what->clones;
    to->first_replica = what->first_replica;
    to->truncate_clones = what->truncate_clones;
    copy_scratch(&to->s, s);
    BARRIER();
    to->generation = generation;
    return generation;
}

static __always_inline int spread(struct xdp_md *ctx, struct scratch *s, const struct state *what)
{
    __u32 items = what->clones.count + what->others;

    if (items == 0)
        return drop(DROP_BY_PROGRAM);
    if (s->m.passes >= MAX_PASSES)
        return drop(DROP_PASSES);

    __u32 generation = keep(s, what);

    if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct tag)))
        return drop(DROP_NO_ROOM);
    struct tag *tag = (struct tag *)(long)ctx->data;
    if ((__u8 *)(tag + 1) > (__u8 *)(long)ctx->data_end)
        return drop(DROP_NO_ROOM);
    tag->magic = TAG_MAGIC;
    tag->generation = generation;
    tag->item = 0;
    tag->passes = s->m.passes + 1;
    return hand_on(ctx, items > 1);
}

/* The state that a packet's tag names, 0 where it has none or waited for too long. */
static __always_inline struct state *tagged(struct xdp_md *ctx, struct tag *copy)
{
    struct tag *tag = (struct tag *)(long)ctx->data;

    if ((__u8 *)(tag + 1) > (__u8 *)(long)ctx->data_end || tag->magic != TAG_MAGIC)
        return 0;
    *copy = *tag;

    struct state *from = state_of(tag->generation);
    if (from->generation != tag->generation)
        from = 0;
    HIDE(from);
    return from;
}

SEC("xdp")
int next(struct xdp_md *ctx)
{
    struct tag copy;
    struct state *from = tagged(ctx, &copy);
    struct tag *tag = (struct tag *)(long)ctx->data;

    if (!from || (__u8 *)(tag + 1) > (__u8 *)(long)ctx->data_end)
        return drop(DROP_PASSES);
    tag->item += 1;
    return hand_on(ctx, tag->item + 1 < from->clones.count + from->others);
}
