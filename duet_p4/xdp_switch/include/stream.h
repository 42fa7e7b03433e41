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

#define STREAM(algorithm)                                                                          \
    static __always_inline void stream_bytes_##algorithm(struct stream *t, const __u8 *from,       \
                                                         __u32 length, __u32 room)                 \
    {                                                                                              \
        for (__u32 i = 0; i < room; i++) {                                                         \
            if (i >= length)                                                                       \
                break;                                                                             \
            stream_##algorithm(t, from[i]);                                                        \
        }                                                                                          \
    }                                                                                              \
                                                                                                   \
    static __noinline long stream_chunk_##algorithm(__u32 round, struct payload *p)                \
    {                                                                                              \
        __u32 left = p->end - p->at;                                                               \
        __u32 size = left < CHUNK ? left : CHUNK;                                                  \
                                                                                                   \
        HIDE(size);                                                                                \
        if (p->at >= p->end || size == 0 || size > CHUNK)                                          \
            return 1;                                                                              \
        if (bpf_xdp_load_bytes(p->ctx, p->at, p->chunk, size))                                     \
            return 1;                                                                              \
        for (__u32 i = 0; i < CHUNK; i++) {                                                        \
            if (i >= size)                                                                         \
                break;                                                                             \
            stream_##algorithm(&p->stream, p->chunk[i]);                                           \
        }                                                                                          \
        p->at += size;                                                                             \
        return 0;                                                                                  \
    }                                                                                              \
                                                                                                   \
    static __always_inline void stream_payload_##algorithm(struct xdp_md *ctx, struct scratch *s,  \
                                                           struct stream *t)                       \
    {                                                                                              \
        struct payload p = { .ctx = ctx, .at = s->parsed, .stream = *t };                          \
                                                                                                   \
        p.end = s->received;                                                                       \
        bpf_loop(MAX_PAYLOAD / CHUNK, stream_chunk_##algorithm, &p, 0);                            \
        *t = p.stream;                                                                             \
    }

struct payload {
    struct xdp_md *ctx;
    __u32 at;
    __u32 end;
    struct stream stream;
    __u8 chunk[CHUNK];
};

STREAM(csum16)
STREAM(xor16)
STREAM(crc32)
STREAM(crc16)
STREAM(identity)
