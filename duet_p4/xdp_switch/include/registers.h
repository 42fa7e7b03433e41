/* One lock for all registers: an action that reads and writes them is done by one CPU at a time. */
#pragma once

struct register_lock {
    struct bpf_spin_lock lock;
};

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct register_lock);
} register_locks SEC(".maps");

static __always_inline struct register_lock *find_register_lock(void)
{
    __u32 zero = 0;

    return bpf_map_lookup_elem(&register_locks, &zero);
}
