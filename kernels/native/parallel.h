// Work that is split over threads: whose threads they are is the caller's business.
#pragma once

#include <cstddef>
#include <type_traits>

namespace espalier {

struct Parallel {
  void* threads;
  // Calls body(user, i) for every i below total, in any order and on any thread; returns when all are done.
  void (*run)(void* threads, void (*body)(void* user, size_t index), size_t total, void* user);

  template <typename Body>
  void forEach(size_t total, Body&& body) const {
    auto call = [](void* user, size_t index) { (*static_cast<std::remove_reference_t<Body>*>(user))(index); };
    if (total == 1) return body(size_t{0});
    run(threads, call, total, &body);
  }
};

}  // namespace espalier
