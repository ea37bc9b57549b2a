// Orders in which tasks can run.
#pragma once

#include <pthread.h>

#include "../parallel.h"
#include "checks.h"

namespace espalier {
namespace {

using Body = void (*)(void* user, size_t index);

void runForward(void*, Body body, size_t total, void* user) {
  for (size_t i = 0; i < total; i++) body(user, i);
}

void runBackward(void*, Body body, size_t total, void* user) {
  for (size_t i = total; i > 0; i--) body(user, i - 1);
}

struct Crew {
  Body body;
  void* user;
  size_t total;
  size_t next;
};

void* work(void* shared) {
  auto* crew = static_cast<Crew*>(shared);
  for (;;) {
    const size_t index = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
    if (index >= crew->total) return nullptr;
    crew->body(crew->user, index);
  }
}

void runThreaded(void* threads, Body body, size_t total, void* user) {
  Crew crew{body, user, total, 0};
  const size_t count = *static_cast<const size_t*>(threads);
  std::vector<pthread_t> members(count);
  for (pthread_t& member : members) {
    if (pthread_create(&member, nullptr, work, &crew) != 0) std::abort();
  }
  for (pthread_t member : members) pthread_join(member, nullptr);
}

}  // namespace
}  // namespace espalier
