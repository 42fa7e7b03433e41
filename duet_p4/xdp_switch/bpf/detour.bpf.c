/* Leads packets around a port with the first frame that cannot leave by it, in the kernel, before any process has heard.
 *
 * A port whose far end has lost its link takes no frames any more, which the kernel tells (xdp_devmap_xmit). Some words
 * of the running program's tables are to hold other entries then. Which ones, and what, was prepared
 * (detours.py); this only writes them. Packets that can leave pay nothing for it in their program.
 */
#include <linux/errno.h>
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define MAX_PORTS 512
#define MAX_IFINDEX 65536
#define MAX_STEPS 65536

struct net {
    __u64 net_cookie;
} __attribute__((preserve_access_index));

typedef struct {
    struct net *net;
} possible_net_t;

struct net_device {
    int ifindex;
    possible_net_t nd_net;
} __attribute__((preserve_access_index));

/* One word of the tables: where it is in their memory, and what it becomes. */
struct step {
    __u64 at;
    __u64 word;
};

struct detour {
    __u32 first;
    __u32 count; /* 0 where nothing is prepared, or it was taken */
    __u32 begun; /* how often a CPU has begun to look whether to take it, and has ended; equal where none is at it */
    __u32 ended;
};

const volatile __u64 own_net = 0;     /* the cookie of the switch's network namespace */
const volatile __u32 table_bytes = 8; /* of the memory with all tables */

/* Interface index -> port + 1; the switch's own map. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_IFINDEX);
    __type(key, __u32);
    __type(value, __u32);
} ingress_ports SEC(".maps");

/* The running program's global variables. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, __u64);
} tables SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_STEPS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct step);
} steps SEC(".maps");

/* By port. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, MAX_PORTS);
    __uint(map_flags, BPF_F_MMAPABLE);
    __type(key, __u32);
    __type(value, struct detour);
} detours SEC(".maps");

struct walk {
    __u8 *memory;
    __u32 first;
};

static long take_step(__u32 number, struct walk *walk)
{
    __u32 index = walk->first + number;
    struct step *step = bpf_map_lookup_elem(&steps, &index);

    if (!step)
        return 1;

    __u64 at = step->at;

    __asm__ volatile("" : "+r"(at));
    if (at > table_bytes - sizeof(__u64))
        return 1;
    *(volatile __u64 *)(walk->memory + at) = step->word;
    return 0;
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(not_sent, const struct net_device *from, const struct net_device *to, int sent, int drops, int err)
{
    __u32 zero = 0;

    if (err != -ENXIO || to->nd_net.net->net_cookie != own_net)
        return 0;

    __u32 ifindex = to->ifindex;
    __u32 *found = bpf_map_lookup_elem(&ingress_ports, &ifindex);

    if (!found || !*found)
        return 0;

    __u32 port = *found - 1;
    struct detour *detour = bpf_map_lookup_elem(&detours, &port);
    struct walk walk = {.memory = bpf_map_lookup_elem(&tables, &zero)};

    if (!detour || !walk.memory)
        return 0;
    if (!detour->count)
        return 0;
    __sync_fetch_and_add(&detour->begun, 1);
    walk.first = detour->first;

    /* One CPU takes it, whoever else's frames cannot leave at this moment. */
    __u32 count = __sync_lock_test_and_set(&detour->count, 0);

    if (count)
        bpf_loop(count, take_step, &walk, 0);
    __sync_fetch_and_add(&detour->ended, 1);
    return 0;
}

char _license[] SEC("license") = "GPL";
