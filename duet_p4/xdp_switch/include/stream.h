/* Calculations over inputs whose length is known only at run time: varbit fields, the payload. */
#pragma once

#define CHUNK 64
#define MAX_PAYLOAD 3584

struct stream {
    __u64 value;
    __u32 count; /* bytes so far */
};

static __always_inline void stream_csum16(struct stream *t, __u8 byte)
{
    t->value += t->count++ & 1 ? byte : (__u64)byte << 8;
}

static __always_inline void stream_xor16(struct stream *t, __u8 byte)
{
    t->value ^= t->count++ & 1 ? byte : (__u64)byte << 8;
}

static __always_inline void stream_crc32(struct stream *t, __u8 byte)
{
    t->value = crc32_byte(t->value, byte);
}

static __always_inline void stream_crc16(struct stream *t, __u8 byte)
{
    t->value = crc16_byte(t->value, byte);
}

/* The first 8 bytes, as of the inputs of known length. */
static __always_inline void stream_identity(struct stream *t, __u8 byte)
{
    if (t->count++ < 8)
        t->value = t->value << 8 | byte;
}

/* How far the payload is read; in map memory, of which the verifier takes no notes. */
struct payload {
    __u32 at;
    __u32 end;
    struct stream stream;
    __u8 chunk[CHUNK] __attribute__((aligned(8)));
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct payload);
} payloads SEC(".maps");

struct walk {
    struct xdp_md *ctx;
    struct payload *payload;
};

/* Read the next bytes, zeros behind the last; their number, 0 at the end. */
static __always_inline __u32 next_chunk(struct walk *w)
{
    struct payload *p = w->payload;
    __u64 size = p->end - p->at;

    for (int i = 0; i < CHUNK; i += 8)
        *(any64 *)(p->chunk + i) = 0;
    if (p->at >= p->end)
        return 0;
    BOUND(size, CHUNK);
    if (bpf_xdp_load_bytes(w->ctx, p->at, p->chunk, size))
        return 0;
    p->at += size;
    return size;
}

static __always_inline struct payload *payload_of(struct scratch *s, const struct stream *t)
{
    __u32 zero = 0;
    struct payload *p = bpf_map_lookup_elem(&payloads, &zero);

    if (p) {
        p->at = s->parsed;
        p->end = s->received;
        p->stream = *t;
    }
    return p;
}

#define STREAM_BYTES(algorithm)                                                                    \
    static __always_inline void stream_bytes_##algorithm(struct stream *t, const __u8 *from,       \
                                                         __u32 length, __u32 room)                 \
    {                                                                                              \
        for (__u32 i = 0; i < room; i++) {                                                         \
            if (i >= length)                                                                       \
                break;                                                                             \
            stream_##algorithm(t, from[i]);                                                        \
        }                                                                                          \
    }

#define STREAM_PAYLOAD(algorithm)                                                                  \
    static __always_inline void stream_payload_##algorithm(struct xdp_md *ctx, struct scratch *s,  \
                                                           struct stream *t)                       \
    {                                                                                              \
        struct walk walk = { .ctx = ctx, .payload = payload_of(s, t) };                            \
                                                                                                   \
        if (!walk.payload)                                                                         \
            return;                                                                                \
        bpf_loop(MAX_PAYLOAD / CHUNK, stream_chunk_##algorithm, &walk, 0);                         \
        *t = walk.payload->stream;                                                                 \
    }

/* Sums of 16 bits: what starts at an odd byte counts with its bytes swapped, that is, times 256. */
static long stream_chunk_csum16(__u32 round, struct walk *w)
{
    __u32 size = next_chunk(w);
    struct stream *t = &w->payload->stream;
    __u64 sum = 0;

    for (int i = 0; i < CHUNK; i += 2)
        sum += LOAD16(w->payload->chunk + i);
    t->value += t->count & 1 ? sum << 8 : sum;
    t->count += size;
    return size == 0;
}

static long stream_chunk_xor16(__u32 round, struct walk *w)
{
    __u32 size = next_chunk(w);
    struct stream *t = &w->payload->stream;
    __u16 sum = 0;

    for (int i = 0; i < CHUNK; i += 2)
        sum ^= LOAD16(w->payload->chunk + i);
    t->value ^= t->count & 1 ? __builtin_bswap16(sum) : sum;
    t->count += size;
    return size == 0;
}

#define STREAM_BYTEWISE(algorithm)                                                                 \
    static long stream_chunk_##algorithm(__u32 round, struct walk *w)                              \
    {                                                                                              \
        __u32 size = next_chunk(w);                                                                \
                                                                                                   \
        stream_bytes_##algorithm(&w->payload->stream, w->payload->chunk, size, CHUNK);             \
        return size == 0;                                                                          \
    }

STREAM_BYTES(csum16)
STREAM_BYTES(xor16)
STREAM_BYTES(crc32)
STREAM_BYTES(crc16)
STREAM_BYTES(identity)
STREAM_BYTEWISE(crc32)
STREAM_BYTEWISE(crc16)
STREAM_BYTEWISE(identity)
STREAM_PAYLOAD(csum16)
STREAM_PAYLOAD(xor16)
STREAM_PAYLOAD(crc32)
STREAM_PAYLOAD(crc16)
STREAM_PAYLOAD(identity)
