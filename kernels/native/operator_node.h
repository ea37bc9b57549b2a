// An operator on the CPU as a node of its own.
#pragma once

#include "cpu_operator.h"

namespace espalier {

template <const OperatorKind& kind>
struct OperatorNode {
  explicit OperatorNode(ort::Api api) : api(api) {}
  ~OperatorNode() {
    delete op;
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  OperatorNode(const OperatorNode&) = delete;
  OperatorNode& operator=(const OperatorNode&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  CpuOperator* op = nullptr;

  ort::Status* prepare(const ort::KernelInfo* info) {
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    op = kind.create(*routines);
    return op ? op->prepare({api, info}) : failure(api, "%s: out of memory", kind.name);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    NodeOperands operands(api, context);
    const size_t teamBytes = (Team::bytes(op->loops()) + 63) / 64 * 64;
    WorkMemory forRun(api, allocator), forWork(api, allocator);
    void *memory = nullptr, *work = nullptr;
    RETURN_IF_FAILED(forRun.allocate(teamBytes + op->runBytes(), &memory));
    void* run = static_cast<uint8_t*>(memory) + teamBytes;
    RETURN_IF_FAILED(op->bind(operands, run));
    if (const size_t bytes = op->workBytes(run)) RETURN_IF_FAILED(forWork.allocate(bytes, &work));
    runTogether(api, context, memory, op->loops(), [&](const Parallel& parallel) { op->compute(run, work, parallel); });
    return nullptr;
  }

  static const Routines* routines;
  static ort::CustomOp description;
};

template <const OperatorKind& kind>
const Routines* OperatorNode<kind>::routines = nullptr;

template <const OperatorKind& kind>
ort::CustomOp OperatorNode<kind>::description = describeOperator<OperatorNode<kind>>();

// The description of such nodes, with these routines from now on.
template <const OperatorKind& kind>
const ort::CustomOp* nodeOf(const Routines& routines) {
  using Node = OperatorNode<kind>;
  Node::routines = &routines;
  Node::description.getName = [](const ort::CustomOp*) -> const char* { return kind.name; };
  kind.describeInputs(&Node::description);
  return &Node::description;
}

}  // namespace espalier
