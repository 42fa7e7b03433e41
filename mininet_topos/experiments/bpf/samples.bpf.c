/* Where the kernel is when a CPU's clock ticks, and for whom: samples of all processes, BPF programs among it. */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define DEPTH 64
#define STACKS 65536 /* many times as many as there are: of two that share a place, the kernel keeps one */

char LICENSE[] SEC("license") = "GPL";

struct {
    __uint(type, BPF_MAP_TYPE_STACK_TRACE);
    __uint(max_entries, STACKS);
    __type(key, __u32);
    __uint(value_size, DEPTH * sizeof(__u64));
} stacks SEC(".maps");

/* Whose time it was: a process by the name that it goes by; the kernel's stack, negative where it was its own code. */
struct sample {
    char name[16];
    __s32 stack;
    __u32 padding;
};

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, STACKS);
    __type(key, struct sample);
    __type(value, __u64);
} samples SEC(".maps");

SEC("perf_event")
int tick(void *ctx)
{
    struct sample key = {};
    __u64 one = 1, *count;

    /* The idle process. */
    if (!(bpf_get_current_pid_tgid() >> 32))
        return 0;
    bpf_get_current_comm(key.name, sizeof(key.name));
    key.stack = bpf_get_stackid(ctx, &stacks, BPF_F_REUSE_STACKID);
    count = bpf_map_lookup_elem(&samples, &key);
    if (count)
        __sync_fetch_and_add(count, 1);
    else
        bpf_map_update_elem(&samples, &key, &one, BPF_NOEXIST);
    return 0;
}
