#include "chain.h"

#include <cstdio>
#include <cstring>

#include "operators.h"
#include "rounding.h"

namespace espalier {
namespace {

constexpr int64_t absent = -1;
constexpr int64_t outputOf(size_t part) { return -2 - static_cast<int64_t>(part); }

struct Tensor {
  const void* data;
  Shape shape;
};

struct Part {
  CpuOperator* op;
  const int64_t* operands;
  size_t operandCount;
  size_t lastUse;  // the last part that takes its output
  size_t slot;     // where its output lies; the last part's is the node's
  size_t place;    // of its run, in bytes
};

// A list that its owner frees; null if there was no memory.
template <typename T>
struct List {
  T* items = nullptr;
  size_t count = 0;

  List() = default;
  ~List() { delete[] items; }
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  bool make(size_t wanted) {
    items = new (std::nothrow) T[wanted]();
    count = items ? wanted : 0;
    return items != nullptr;
  }
  T& operator[](size_t index) const { return items[index]; }
};

class Chain {
 public:
  explicit Chain(ort::Api api) : api_(api) {}
  ~Chain() {
    for (size_t p = 0; p < parts_.count; p++) delete parts_[p].op;
    if (allocator_) ort::ReleaseAllocator::call(api_, allocator_);
  }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  ort::Status* prepare(const ort::KernelInfo*);
  ort::Status* compute(ort::KernelContext*) const;

  static const Routines* routines;

 private:
  class PartOperands;

  ort::Status* outOfMemory() const { return failure(api_, "Chain: out of memory"); }
  ort::Status* readList(const ort::KernelInfo*, const char* name, List<int64_t>* out) const;
  ort::Status* readInputs(const ort::KernelInfo*);
  ort::Status* readParts(const ort::KernelInfo*);
  ort::Status* readPart(const OperatorInfo&, CpuOperator** op) const;
  ort::Status* place();

  ort::Api api_;
  ort::Allocator* allocator_ = nullptr;
  List<int64_t> operands_;
  List<Part> parts_;
  List<Tensor> inputs_;   // the constants; without data where a run brings it
  List<size_t> brought_;  // the other inputs
  size_t broughtCount_ = 0;
  List<size_t> slotColumns_;  // floats of a row of what lies there
  size_t slotCount_ = 0;
  size_t loops_ = 0, runBytes_ = 0;
};

const Routines* Chain::routines = nullptr;

// The operands of one part after another, in one run.
class Chain::PartOperands final : public Operands {
 public:
  PartOperands(const Chain& chain, ort::KernelContext* context, const Tensor* inputs, Tensor* outputs)
      : Operands(chain.api_), chain_(chain), context_(context), inputs_(inputs), outputs_(outputs) {}

  // @param slots Memory of all slots, [slots][rows][columns]
  void enter(size_t part, float* slots, size_t rows) {
    part_ = part;
    slots_ = slots;
    rows_ = rows;
  }

  ort::Status* output(const Shape& shape, float** data) override {
    const Part& part = chain_.parts_[part_];
    const int64_t wanted = static_cast<int64_t>(rows_ * part.op->columns());
    if (shape.count() != wanted) {
      return failure(api, "Chain: part %zu has an output of %lld elements, wanted %lld", part_,
                     static_cast<long long>(shape.count()), static_cast<long long>(wanted));
    }
    if (part_ + 1 == chain_.parts_.count) return makeOutput(api, context_, 0, shape, data);
    size_t columns = 0;
    for (size_t slot = 0; slot < part.slot; slot++) columns += chain_.slotColumns_[slot];
    *data = slots_ + rows_ * columns;
    outputs_[part_] = {*data, shape};
    return nullptr;
  }

 protected:
  ort::Status* inputValue(size_t index, const void** data, Shape* shape) override {
    const Part& part = chain_.parts_[part_];
    const int64_t operand = index < part.operandCount ? part.operands[index] : absent;
    *data = nullptr;
    if (operand == absent) return nullptr;
    const Tensor& tensor = operand >= 0 ? inputs_[operand] : outputs_[outputOf(0) - operand];
    *data = tensor.data;
    *shape = tensor.shape;
    return nullptr;
  }

 private:
  const Chain& chain_;
  ort::KernelContext* context_;
  const Tensor* inputs_;
  Tensor* outputs_;
  size_t part_ = 0, rows_ = 0;
  float* slots_ = nullptr;
};

ort::Status* Chain::readList(const ort::KernelInfo* info, const char* name, List<int64_t>* out) const {
  size_t count = 0;
  RETURN_IF_FAILED(ort::GetIntsAttribute::call(api_, info, name, nullptr, &count));
  if (!out->make(count)) return outOfMemory();
  return ort::GetIntsAttribute::call(api_, info, name, out->items, &count);
}

ort::Status* Chain::readInputs(const ort::KernelInfo* info) {
  size_t count = 0;
  RETURN_IF_FAILED(ort::GetInputCount::call(api_, info, &count));
  if (!inputs_.make(count) || !brought_.make(count)) return outOfMemory();
  for (size_t i = 0; i < count; i++) {
    int isConstant = 0;
    const ort::Value* value = nullptr;
    RETURN_IF_FAILED(ort::GetConstantInput::call(api_, info, i, &isConstant, &value));
    if (isConstant && value) {
      RETURN_IF_FAILED(readValue(api_, value, &inputs_[i].data, &inputs_[i].shape));
    } else {
      brought_[broughtCount_++] = i;
    }
  }
  return nullptr;
}

ort::Status* Chain::readParts(const ort::KernelInfo* info) {
  List<int64_t> counts;
  RETURN_IF_FAILED(readList(info, "operand_counts", &counts));
  RETURN_IF_FAILED(readList(info, "operands", &operands_));
  if (counts.count == 0) return failure(api_, "Chain: no parts");
  if (!parts_.make(counts.count)) return outOfMemory();
  size_t next = 0;
  for (size_t p = 0; p < parts_.count; p++) {
    Part& part = parts_[p];
    const size_t left = operands_.count - next;
    if (counts[p] < 1 || counts[p] > static_cast<int64_t>(left)) {
      return failure(api_, "Chain: part %zu has %lld operands, wanted 1 to %zu", p, static_cast<long long>(counts[p]),
                     left);
    }
    part.operands = operands_.items + next;
    part.operandCount = static_cast<size_t>(counts[p]);
    next += part.operandCount;
    for (size_t i = 0; i < part.operandCount; i++) {
      const int64_t operand = part.operands[i];
      if (operand >= static_cast<int64_t>(inputs_.count) || operand <= outputOf(p)) {
        return failure(api_, "Chain: operand %zu of part %zu is %lld, wanted one of %zu inputs or an earlier part", i,
                       p, static_cast<long long>(operand), inputs_.count);
      }
      if (operand < absent) parts_[static_cast<size_t>(outputOf(0) - operand)].lastUse = p;
    }
    char prefix[24];
    std::snprintf(prefix, sizeof(prefix), "%zu.", p);
    RETURN_IF_FAILED(readPart({api_, info, prefix, part.operands, part.operandCount}, &part.op));
  }
  if (next == operands_.count) return nullptr;
  return failure(api_, "Chain: %zu operands, wanted %zu", operands_.count, next);
}

ort::Status* Chain::readPart(const OperatorInfo& info, CpuOperator** op) const {
  char name[32] = {};
  RETURN_IF_FAILED(readString(info, "operator", name, sizeof(name)));
  const OperatorKind* const* kind = operatorKinds;
  while (*kind && std::strcmp((*kind)->name, name) != 0) kind++;
  if (!*kind) return failure(api_, "Chain: part %s is \"%s\": there is no such operator", info.prefix, name);
  *op = (*kind)->create(*routines);
  return *op ? (*op)->prepare(info) : outOfMemory();
}

// Gives each part a place for its run, and one for its output that nothing else needs until its last use.
ort::Status* Chain::place() {
  List<size_t> freeFrom;  // of each slot, the part from which on it is free
  if (!slotColumns_.make(parts_.count) || !freeFrom.make(parts_.count)) return outOfMemory();
  for (size_t p = 0; p < parts_.count; p++) {
    Part& part = parts_[p];
    part.place = runBytes_;
    runBytes_ += roundUp(part.op->runBytes(), alignment);
    loops_ += part.op->loops();
    if (p + 1 == parts_.count) break;
    size_t slot = 0;
    while (slot < slotCount_ && freeFrom[slot] > p) slot++;
    if (slot == slotCount_) slotCount_++;
    part.slot = slot;
    freeFrom[slot] = part.lastUse + 1;
    const size_t columns = part.op->columns();
    if (columns > slotColumns_[slot]) slotColumns_[slot] = columns;
  }
  return nullptr;
}

ort::Status* Chain::prepare(const ort::KernelInfo* info) {
  RETURN_IF_FAILED(ort::GetAllocator::call(api_, info, 0, &allocator_));
  RETURN_IF_FAILED(readInputs(info));
  RETURN_IF_FAILED(readParts(info));
  return place();
}

ort::Status* Chain::compute(ort::KernelContext* context) const {
  // The team's, the parts' runs, the tensors of inputs and of outputs.
  const size_t teamBytes = roundUp(Team::bytes(loops_), alignment);
  const size_t inputBytes = roundUp(inputs_.count * sizeof(Tensor), alignment);
  WorkMemory forRuns(api_, allocator_), forSlots(api_, allocator_), forWork(api_, allocator_);
  void *memory = nullptr, *slots = nullptr, *work = nullptr;
  RETURN_IF_FAILED(forRuns.allocate(teamBytes + runBytes_ + inputBytes + parts_.count * sizeof(Tensor), &memory));
  uint8_t* runs = static_cast<uint8_t*>(memory) + teamBytes;
  auto* inputs = reinterpret_cast<Tensor*>(runs + runBytes_);
  auto* outputs = reinterpret_cast<Tensor*>(runs + runBytes_ + inputBytes);
  std::memcpy(static_cast<void*>(inputs), inputs_.items, inputs_.count * sizeof(Tensor));
  for (size_t i = 0; i < broughtCount_; i++) {
    Tensor& input = inputs[brought_[i]];
    RETURN_IF_FAILED(readInput(api_, context, brought_[i], &input.data, &input.shape));
  }

  PartOperands operands(*this, context, inputs, outputs);
  const void* first = nullptr;
  Shape shape;
  RETURN_IF_FAILED(operands.input(0, &first, &shape));
  const size_t rows = shape.rank > 0 ? static_cast<size_t>(shape.sizes[0]) : 0;
  size_t columns = 0;
  for (size_t slot = 0; slot < slotCount_; slot++) columns += slotColumns_[slot];
  RETURN_IF_FAILED(forSlots.allocate(rows * columns * sizeof(float), &slots));
  size_t workBytes = 0;
  for (size_t p = 0; p < parts_.count; p++) {
    const Part& part = parts_[p];
    operands.enter(p, static_cast<float*>(slots), rows);
    RETURN_IF_FAILED(part.op->bind(operands, runs + part.place));
    const size_t bytes = part.op->workBytes(runs + part.place);
    if (bytes > workBytes) workBytes = bytes;
  }
  RETURN_IF_FAILED(forWork.allocate(workBytes, &work));
  return runTogether(api_, context, memory, loops_, [&](const Parallel& parallel) {
    for (size_t p = 0; p < parts_.count; p++) parts_[p].op->compute(runs + parts_[p].place, work, parallel);
  });
}

constexpr ort::CustomOp describe() {
  ort::CustomOp op = describeOperator<Chain>();
  op.getName = [](const ort::CustomOp*) -> const char* { return "Chain"; };
  op.getInputCount = [](const ort::CustomOp*) -> size_t { return 1; };
  op.getInputType = [](const ort::CustomOp*, size_t) { return ort::anyType; };
  op.getInputPresence = [](const ort::CustomOp*, size_t) { return ort::variadic; };
  return op;
}

constexpr ort::CustomOp description = describe();

}  // namespace

const ort::CustomOp* chain(const Routines& routines) {
  Chain::routines = &routines;
  return &description;
}

}  // namespace espalier
