// What an operator on the CPU is: a node of its own, or a part of a chain (chain.h).
#pragma once

#include "operator.h"
#include "routines.h"
#include "team.h"

namespace espalier {

class CpuOperator {
 public:
  virtual ~CpuOperator() = default;

  // Reads and checks attributes and constants, once.
  virtual ort::Status* prepare(const OperatorInfo&) = 0;

  // Floats of a row of its output, which has as many rows as its first input. Known once it is prepared, before any
  // input has a shape: from constants, or from an attribute.
  virtual size_t columns() const = 0;

  // Loops of a run at most: every `forEach` and `once` of `compute` counts.
  virtual size_t loops() const = 0;

  // Bytes of what `bind` writes, aligned to 16.
  virtual size_t runBytes() const = 0;

  // Checks the inputs of a run and makes its output, on one thread.
  virtual ort::Status* bind(Operands&, void* run) const = 0;

  // Bytes of work memory, aligned to 64, that a run needs.
  virtual size_t workBytes(const void* run) const = 0;

  // On every thread of a team. Several runs may overlap, each with memory of its own.
  virtual void compute(const void* run, void* work, const Parallel&) const = 0;
};

// An operator of which this is what a run works on: nothing that needs a destructor.
template <typename Run>
class OperatorOf : public CpuOperator {
 public:
  size_t runBytes() const final { return sizeof(Run); }
  ort::Status* bind(Operands& operands, void* run) const final { return bind(operands, *new (run) Run); }
  size_t workBytes(const void* run) const final { return workBytes(*static_cast<const Run*>(run)); }
  void compute(const void* run, void* work, const Parallel& parallel) const final {
    compute(*static_cast<const Run*>(run), work, parallel);
  }

 protected:
  virtual ort::Status* bind(Operands&, Run&) const = 0;
  virtual size_t workBytes(const Run&) const = 0;
  virtual void compute(const Run&, void* work, const Parallel&) const = 0;
};

struct OperatorKind {
  const char* name;
  // Null if there is no memory.
  CpuOperator* (*create)(const Routines&);
  // Says what inputs a node has.
  void (*describeInputs)(ort::CustomOp*);
};

// Lets the session's threads run body(parallel) as one team. Fails if it has more loops.
// @param memory `Team::bytes(loops)`
template <typename Body>
ort::Status* runTogether(ort::Api api, const ort::KernelContext* context, void* memory, size_t loops, Body&& body) {
  struct Shared {
    Team team;
    std::remove_reference_t<Body>& body;
  } shared{Team(memory, loops), body};
  const auto join = [](void* user, size_t) {
    auto& shared = *static_cast<Shared*>(user);
    shared.team.join(shared.body);
  };
  // Only a run without threads fails, before it calls anything.
  if (ort::Status* status = ort::ParallelFor::call(api, context, join, Team::processors(), 0, &shared)) {
    ort::ReleaseStatus::call(api, status);
    join(&shared, 0);
  }
  if (!shared.team.hadMoreLoops()) return nullptr;
  return failure(api, "compute() has more loops than the %zu of loops()", loops);
}

}  // namespace espalier
