#include "team.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstring>

namespace espalier {
namespace {

constexpr size_t mostShares = 8;

// Looks at a counter before a member sleeps: some tens of microseconds, longer than others mostly need.
constexpr size_t looks = 1000;

// Tells the processor that a thread only waits.
void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("isb");  // as long as x86's; `yield` is over at once
#endif
}

}  // namespace

size_t Team::processors() {
  static const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? static_cast<size_t>(count) : 1;
}

size_t Team::shares() { return processors() < mostShares ? processors() : mostShares; }

Team::Team(void* memory, size_t loops) : loops_(loops), done_(static_cast<uint32_t*>(memory)), taken_(done_ + loops) {
  std::memset(memory, 0, bytes(loops));
}

void Team::runLoop(void* user, void (*body)(void* user, size_t index), size_t total, void* bodyUser) {
  Member& member = *static_cast<Member*>(user);
  Team& team = *member.team;
  const size_t loop = member.nextLoop++, count = shares();
  if (loop >= team.loops_) {
    __atomic_store_n(&team.hadMoreLoops_, true, __ATOMIC_RELAXED);
    return;
  }
  uint32_t* done = team.done_ + loop;
  if (__atomic_load_n(done, __ATOMIC_ACQUIRE) == total) return;
  uint32_t mine = 0;
  for (size_t i = 0; i < count; i++) {
    const size_t share = (member.index + i) % count, first = total * share / count;
    const size_t size = total * (share + 1) / count - first;
    uint32_t* taken = team.taken_ + share * team.loops_ + loop;
    if (size == 0) continue;
    for (size_t next; (next = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED)) < size; mine++) {
      body(bodyUser, first + next);
    }
  }
  if (mine > 0) team.finish(done, mine, static_cast<uint32_t>(total));
  team.wait(done, static_cast<uint32_t>(total));
}

// Counts iterations as done. The order of the two accesses, and of those in `wait`, is that of all threads: either this
// one sees that somebody sleeps, or that one sees the count.
void Team::finish(uint32_t* done, uint32_t mine, uint32_t total) {
  if (__atomic_add_fetch(done, mine, __ATOMIC_SEQ_CST) != total) return;
  if (__atomic_load_n(&sleepers_, __ATOMIC_SEQ_CST) == 0) return;
  syscall(SYS_futex, done, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void Team::wait(const uint32_t* done, uint32_t total) {
  for (size_t i = 0; i < looks; i++) {
    if (__atomic_load_n(done, __ATOMIC_ACQUIRE) == total) return;
    relax();
  }
  __atomic_fetch_add(&sleepers_, 1, __ATOMIC_SEQ_CST);
  for (uint32_t count; (count = __atomic_load_n(done, __ATOMIC_SEQ_CST)) != total;) {
    // Returns at once if the count has changed meanwhile.
    syscall(SYS_futex, done, FUTEX_WAIT_PRIVATE, count, nullptr, nullptr, 0);
  }
  __atomic_fetch_sub(&sleepers_, 1, __ATOMIC_SEQ_CST);
}

}  // namespace espalier
