#include "operator_node.h"

#include "rounding.h"

namespace espalier {
namespace {

class OperatorNode {
 public:
  OperatorNode(ort::Api api, const NodeDescription& description) : api_(api), description_(description) {}
  ~OperatorNode() {
    delete op_;
    if (allocator_) ort::ReleaseAllocator::call(api_, allocator_);
  }
  OperatorNode(const OperatorNode&) = delete;
  OperatorNode& operator=(const OperatorNode&) = delete;

  ort::Status* prepare(const ort::KernelInfo* info) {
    RETURN_IF_FAILED(ort::GetAllocator::call(api_, info, 0, &allocator_));
    op_ = description_.kind->create(*description_.routines);
    return op_ ? op_->prepare({api_, info}) : failure(api_, "%s: out of memory", description_.kind->name);
  }

  ort::Status* compute(ort::KernelContext* context) const {
    NodeOperands operands(api_, context);
    const size_t teamBytes = roundUp(Team::bytes(op_->loops()), alignment);
    WorkMemory forRun(api_, allocator_), forWork(api_, allocator_);
    void *memory = nullptr, *work = nullptr;
    RETURN_IF_FAILED(forRun.allocate(teamBytes + op_->runBytes(), &memory));
    void* run = static_cast<uint8_t*>(memory) + teamBytes;
    RETURN_IF_FAILED(op_->bind(operands, run));
    if (const size_t bytes = op_->workBytes(run)) RETURN_IF_FAILED(forWork.allocate(bytes, &work));
    return runTogether(api_, context, memory, op_->loops(),
                       [&](const Parallel& parallel) { op_->compute(run, work, parallel); });
  }

 private:
  ort::Api api_;
  const NodeDescription description_;  // a copy: the routines of later kernels may be others
  ort::Allocator* allocator_ = nullptr;
  CpuOperator* op_ = nullptr;
};

}  // namespace

NodeDescription describeNode(const OperatorKind& kind, const Routines& routines) {
  NodeDescription node{describeOperator<OperatorNode>(), &kind, &routines};
  kind.describeInputs(&node);
  node.getName = [](const ort::CustomOp* op) { return static_cast<const NodeDescription*>(op)->kind->name; };
  node.createKernelV2 = [](const ort::CustomOp* op, ort::Api api, const ort::KernelInfo* info, void** out) {
    const auto& description = *static_cast<const NodeDescription*>(op);
    return prepareKernel(new (std::nothrow) OperatorNode(api, description), api, info, out);
  };
  return node;
}

}  // namespace espalier
