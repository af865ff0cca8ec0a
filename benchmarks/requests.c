/* Valgrind's client requests as functions for ctypes; elsewhere than under valgrind they do nothing. */
#include <cpuid.h>
#include <valgrind/callgrind.h>

void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }

/* The processor's name as a program sees it, into 49 characters: under valgrind, one of valgrind's own. */
void processor(unsigned name[12]) {
    for (unsigned leaf = 0; leaf < 3; ++leaf)
        __get_cpuid(0x80000002 + leaf, name + 4 * leaf, name + 4 * leaf + 1, name + 4 * leaf + 2, name + 4 * leaf + 3);
}
