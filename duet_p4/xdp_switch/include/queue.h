/* Ports that have a rate: their packets wait between ingress and egress, in a queue of the switch's process.
 *
 * XDP cannot hold a packet. So what leaves for such a port gets a ticket in front and goes into a veth pair, where
 * the process (queues.py) reads it, with the scratch that was kept of it. When its time has come, the process
 * puts the scratch into `waiting`, and sends the packet back, to `leave_queue`, which runs egress and the rest. */
#pragma once

#define TICKET_MAGIC 0x44755051

struct ticket {
    __u32 magic;
    __u32 number; /* of what is kept in `states` on the way in, in `waiting` on the way out */
    __u32 port;
    __u32 passes; /* fewer than would look like an EtherType */
    __u64 enqueued; /* nanoseconds of the monotonic clock */
    __u64 dequeued;
    __u32 enqueued_depth; /* packets that waited when it came, without itself, and when it left */
    __u32 dequeued_depth;
};

struct state waiting[STATES];
/* 1 for a port whose packets wait. */
__u8 port_waits[MAX_PORTS];

static __always_inline bool waits(__u32 port)
{
    INDEX(at, port & (MAX_PORTS - 1));
    return port_waits[at];
}

static __always_inline int enqueue(struct xdp_md *ctx, struct scratch *s)
{
    struct state what = { .stage = EGRESS_NOW, .others = 1 };
    __u32 number = keep(s, &what);

    if (bpf_xdp_adjust_head(ctx, -(int)sizeof(struct ticket)))
        return drop(DROP_NO_ROOM);
    struct ticket *ticket = (struct ticket *)(long)ctx->data;
    if ((__u8 *)(ticket + 1) > (__u8 *)(long)ctx->data_end)
        return drop(DROP_NO_ROOM);
    ticket->magic = TICKET_MAGIC;
    ticket->number = number;
    ticket->port = s->egress_port;
    ticket->passes = s->m.passes;
    ticket->enqueued = bpf_ktime_get_ns();
    ticket->dequeued = 0;
    ticket->enqueued_depth = 0;
    ticket->dequeued_depth = 0;
    return bpf_redirect_map(&inner_ports, 2, 0);
}

/* Take the ticket off a packet that has waited; what was kept of it, 0 where it has no ticket. */
static __always_inline struct state *called(struct xdp_md *ctx, struct ticket *copy)
{
    struct ticket *ticket = (struct ticket *)(long)ctx->data;

    if ((__u8 *)(ticket + 1) > (__u8 *)(long)ctx->data_end || ticket->magic != TICKET_MAGIC)
        return 0;
    *copy = *ticket;
    if (bpf_xdp_adjust_head(ctx, sizeof(struct ticket)))
        return 0;
    INDEX(at, copy->number & (STATES - 1));
    struct state *from = &waiting[at];
    if (from->generation != copy->number)
        from = 0;
    HIDE(from);
    return from;
}

/* A veth takes redirected frames where the far end has a program. */
SEC("xdp")
int hold(struct xdp_md *ctx)
{
    return XDP_PASS;
}
