// Loops that several threads share: whose threads they are is the caller's business.
//
// Each thread of a team (team.h) may run the code that has the loops. What stands between them then runs on every
// thread: it may compute what each needs for itself, and writes nothing that another reads.
#pragma once

#include <cstddef>
#include <type_traits>

namespace espalier {

struct Parallel {
  void* threads;
  // Calls body(user, i) for every i below total, once over all threads and in any order; returns when all are done.
  void (*run)(void* threads, void (*body)(void* user, size_t index), size_t total, void* user);

  template <typename Body>
  void forEach(size_t total, Body&& body) const {
    auto call = [](void* user, size_t index) { (*static_cast<std::remove_reference_t<Body>*>(user))(index); };
    run(threads, call, total, &body);
  }

  // What one thread does, while the others wait.
  template <typename Body>
  void once(Body&& body) const {
    forEach(1, [&](size_t) { body(); });
  }
};

}  // namespace espalier
