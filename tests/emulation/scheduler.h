// What the scheduler (emu.cpp) and the asynchronous units (hopper_emu.cpp) need of each other.
#pragma once
#include "cuda_emu.h"

namespace emu {
// ---- emu.cpp ----

const char* name_of(Op op);
// The current thread waits until `wake`.
void sleep_in(Op op, const void* post, Site site);
void wake(const Lane& lane);
// How many threads of the cluster have not ended.
unsigned living();
// What ThreadSanitizer is told: who acquires `at` comes after all that released it.
void order_release(void* at);
void order_acquire(void* at);

// ---- hopper_emu.cpp ----

// `random`: 0, or what the order of the asynchronous units is drawn from.
void begin_of_block(unsigned rank, unsigned blocks, unsigned threads, unsigned char* smem, size_t smem_bytes, uint64_t random);
// The current thread is one of this block of the cluster.
void enter_block(unsigned rank);
// The current thread has ended, and its cluster does not wait for it.
void leave_cluster();
// Ends the launch where the current thread, or the block, leaves work under way.
void end_of_thread();
void end_of_block();
// A copy that threads may wait for lands; false when there is none.
bool land_one();
// Something that is under way may be done now.
void land_some();
// An ordinary store of the current thread to dynamic shared memory.
void ordinary_store(size_t offset, size_t bytes);
// What a thread waits for, for the report of a deadlock.
std::string describe_wait(const Lane& lane);
} // namespace emu
