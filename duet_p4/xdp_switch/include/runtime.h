/* What every compiled program needs before its own declarations: loads, stores, maps, hashes. */
#pragma once

/* A P4 program may state what no packet reaches, compare what is always so, or assign a thing to itself. */
#pragma clang diagnostic ignored "-Wunused"
#pragma clang diagnostic ignored "-Wtautological-compare"
#pragma clang diagnostic ignored "-Wself-assign"
#pragma clang diagnostic ignored "-Wconstant-conversion"
#pragma clang diagnostic ignored "-Wparentheses-equality"

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "crc16.h"
#include "crc32.h"
#include "verifier.h"

typedef unsigned __int128 __u128;
typedef __int128 __s128;

/* Headers have no alignment, and the machines that run this need none. */
typedef __u8 __attribute__((__may_alias__)) any8;
typedef __u16 __attribute__((__may_alias__)) any16;
typedef __u32 __attribute__((__may_alias__)) any32;
typedef __u64 __attribute__((__may_alias__)) any64;

#define COPY8(to, from) (*(any8 *)(to) = *(const any8 *)(from))
#define COPY16(to, from) (*(any16 *)(to) = *(const any16 *)(from))
#define COPY32(to, from) (*(any32 *)(to) = *(const any32 *)(from))
#define COPY64(to, from) (*(any64 *)(to) = *(const any64 *)(from))

/* Fields are in network byte order, values in host byte order. */
#define LOAD8(at) (*(const any8 *)(at))
#define LOAD16(at) bpf_ntohs(*(const any16 *)(at))
#define LOAD32(at) bpf_ntohl(*(const any32 *)(at))
#define LOAD64(at) bpf_be64_to_cpu(*(const any64 *)(at))
/* A byte of a number in memory, counted from its lowest. */
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BYTE_OF(number, n) LOAD8((const __u8 *)&(number) + (n))
#else
#define BYTE_OF(number, n) LOAD8((const __u8 *)&(number) + sizeof(number) - 1 - (n))
#endif
#define STORE8(at, value) (*(any8 *)(at) = (__u8)(value))
#define STORE16(at, value) (*(any16 *)(at) = bpf_htons((__u16)(value)))
#define STORE32(at, value) (*(any32 *)(at) = bpf_htonl((__u32)(value)))
#define STORE64(at, value) (*(any64 *)(at) = bpf_cpu_to_be64((__u64)(value)))

/* Keep clang from deriving one packet pointer from another: the verifier would lose track of its bounds. */
#define HIDE(pointer) __asm__ volatile("" : "+r"(pointer))
/* An array index that clang checks and uses as one and the same register, as the verifier wants it. */
#define INDEX(name, value)                                                                         \
    __u64 name = (value);                                                                          \
    HIDE(name)
/* Make clang read the scratch anew: what it knows of one path would make the verifier walk each path alone. */
#define BARRIER() __asm__ volatile("" ::: "memory")

/* How often a table has been changed, as it is now. */
#define CHANGES(table) (*(volatile __u32 *)&changes_##table)

struct count {
    __u64 packets;
    __u64 bytes;
};

/* One row for each CPU, which only that CPU writes; the control plane adds them up. */
#define COUNTERS(name, size) struct count name[CPUS * (size)]

#define HASH_MAP(name, key_type, value_type, size)                                                 \
    struct {                                                                                       \
        __uint(type, BPF_MAP_TYPE_HASH);                                                           \
        __uint(max_entries, size);                                                                 \
        __type(key, key_type);                                                                     \
        __type(value, value_type);                                                                 \
    } name SEC(".maps")

/* Tell whether the first `length` of at most `room` bytes are equal. */
static __always_inline bool equal_bytes(const __u8 *left, const __u8 *right, __u32 length, __u32 room)
{
    for (__u32 i = 0; i < room; i++) {
        if (i >= length)
            break;
        if (left[i] != right[i])
            return false;
    }
    return true;
}

/* A random number from `low` to `high`, both included; `low` where there is none. */
static __always_inline __u64 random_between(__u64 low, __u64 high)
{
    __u64 drawn = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
    __u64 size = high - low + 1;

    if (high < low)
        return low;
    return size ? low + drawn % size : drawn;
}

static __always_inline __u32 crc16_byte(__u32 crc, __u32 byte)
{
    __u64 at = crc ^ byte;

    /* 6.1's verifier knows no bounds of an exclusive or, and clang drops a mask that changes nothing. */
    __asm__("%0 &= 0xff" : "+r"(at));
    return crc >> 8 ^ crc16_table[at];
}

/* Of at most 15 words of 32 bits. */
static __always_inline __u16 csum16_fold_few(__u64 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum += sum >> 16;
    return ~sum;
}

static __always_inline __u16 csum16_fold(__u64 sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}
