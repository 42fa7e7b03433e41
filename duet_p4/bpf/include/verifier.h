/* What older verifiers have to be shown, as they do not see it by themselves. */
#pragma once

/* Hold a size, a __u64, to 1 to `most`, in the very register that goes on: 6.1's verifier takes no lower bound from
 * "is not 0", which is what clang makes of comparisons with 1, and what it learns of a register it does not know of
 * copies on the stack.
 */
#define BOUND(size, most)                                                                          \
    __asm__("if %0 >= 1 goto +1\n\t%0 = 1\n\tif %0 <= %1 goto +1\n\t%0 = %1" : "+r"(size) : "i"(most))
