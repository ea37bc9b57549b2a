// Threads that go through the same loops together.
//
// To hand every loop to the runtime's threads, and to wait for them, takes it some three microseconds: in a step of 30
// small blocks that was a sixth of the time (Zen 5). A team is handed over once. Its members run the same code; at a
// loop they take one iteration after another, and leave it when all are done.
//
// Each takes from a share of its own first: neighbouring iterations read neighbouring weights, and what a thread has
// asked memory for beyond the end of one is there for the next.
//
// A member waits only for iterations that another has taken and is at work on. So a run ends however many members come
// and however late: one that comes when the others are far ahead finds their loops done, and one that never comes is
// not missed. Who has waited long sleeps, for the other may have lost its processor to somebody else's work, and can
// have this one: beside a busy process a step of two threads then takes an eighth less in the mean.
#pragma once

#include <cstddef>
#include <cstdint>

#include "parallel.h"

namespace espalier {

class Team {
 public:
  // Bytes of memory for code with so many loops.
  static size_t bytes(size_t loops) { return (shares() + 1) * loops * sizeof(uint32_t); }

  // @param memory `bytes(loops)`, written here and until the last member has left.
  Team(void* memory, size_t loops);

  // Called by every member: runs body(parallel), unless others have run it to its end already.
  template <typename Body>
  void join(Body&& body) {
    if (__atomic_load_n(&ended_, __ATOMIC_ACQUIRE)) return;
    Member member{this, __atomic_fetch_add(&members_, 1, __ATOMIC_RELAXED), 0};
    body(Parallel{&member, runLoop});
    __atomic_store_n(&ended_, true, __ATOMIC_RELEASE);
  }

  // Whether the code had more loops than the team is made for; those were left out. Asked when all members have left.
  bool hadMoreLoops() const { return hadMoreLoops_; }

  // Threads that this machine can run at once.
  static size_t processors();

 private:
  struct Member {
    Team* team;
    size_t index;     // in the order in which they came
    size_t nextLoop;  // the one that it comes to
  };

  // Parts of a loop from which members take at first.
  static size_t shares();

  static void runLoop(void* member, void (*body)(void* user, size_t index), size_t total, void* user);
  void finish(uint32_t* done, uint32_t mine, uint32_t total);
  void wait(const uint32_t* done, uint32_t total);

  const size_t loops_;
  uint32_t* done_;   // [loops]: iterations
  uint32_t* taken_;  // [shares][loops]: a member writes next to what it wrote before
  size_t members_ = 0;
  uint32_t sleepers_ = 0;
  bool ended_ = false;
  bool hadMoreLoops_ = false;
};

}  // namespace espalier
