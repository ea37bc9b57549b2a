// Ways to go through the iterations of a loop, and through the loops of a run.
#pragma once

#include <pthread.h>

#include "../team.h"
#include "checks.h"

namespace espalier {
namespace {

struct Order {
  enum class Kind { forward, backward, team } kind;
  size_t threads;  // of a team
};

constexpr Order forward{Order::Kind::forward, 1};
constexpr Order backward{Order::Kind::backward, 1};
constexpr Order teamOf(size_t threads) { return {Order::Kind::team, threads}; }

void runForward(void*, void (*body)(void* user, size_t index), size_t total, void* user) {
  for (size_t i = 0; i < total; i++) body(user, i);
}

void runBackward(void*, void (*body)(void* user, size_t index), size_t total, void* user) {
  for (size_t i = total; i > 0; i--) body(user, i - 1);
}

// Lets threads run body(parallel) as a team that is made for so many loops. Whether it had more.
template <typename Body>
bool runTeam(size_t threads, size_t loops, Body&& body) {
  Guarded memory(Team::bytes(loops), 0xff);
  struct Shared {
    Team team;
    std::remove_reference_t<Body>& body;
  } shared{Team(memory.data(), loops), body};
  const auto join = [](void* user) -> void* {
    auto& shared = *static_cast<Shared*>(user);
    shared.team.join(shared.body);
    return nullptr;
  };
  std::vector<pthread_t> members(threads);
  for (pthread_t& member : members) {
    if (pthread_create(&member, nullptr, join, &shared) != 0) std::abort();
  }
  for (pthread_t member : members) pthread_join(member, nullptr);
  memory.checkBands("a team's memory");
  return shared.team.hadMoreLoops();
}

// Carries out body(parallel), which has so many loops at most.
template <typename Body>
void carryOut(const Order& order, size_t loops, Body&& body) {
  if (order.kind == Order::Kind::forward) return body(Parallel{nullptr, runForward});
  if (order.kind == Order::Kind::backward) return body(Parallel{nullptr, runBackward});
  check(!runTeam(order.threads, loops, body), "more than %zu loops", loops);
}

}  // namespace
}  // namespace espalier
