#include "prefix_matmul.h"

#include "layer_attributes.h"
#include "memory.h"
#include "prefix_product.h"

namespace espalier {
namespace {

struct PrefixMatMul {
  explicit PrefixMatMul(ort::Api api) : api(api) {}
  ~PrefixMatMul() {
    delete product;
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  PrefixMatMul(const PrefixMatMul&) = delete;
  PrefixMatMul& operator=(const PrefixMatMul&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  PrefixProduct* product = nullptr;
  float epsilon = 0;
  size_t heads = 0;

  ort::Status* prepare(const ort::KernelInfo* info) {
    Layer layer;
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readLayer(api, info, Constants::file, &layer));
    epsilon = layer.epsilon;
    heads = layer.heads;
    product = PrefixProduct::create(*routines, layer.shape, layer.chunks, layer.chunkCount);
    if (!product) return failure(api, "PrefixMatMul: not enough memory to pack the weights");
    for (size_t c = 0; c < layer.chunkCount; c++) {
      const size_t blocks = blocksOf(layer.shape, layer.chunks[c]);
      dropMappedPages(layer.chunks[c].codes, blocks * layer.shape.blockSize / 2);
      dropMappedPages(layer.chunks[c].scales, blocks * sizeof(uint16_t));
    }
    return nullptr;
  }

  ort::Status* compute(ort::KernelContext* context) const {
    ProductRun run{};
    RETURN_IF_FAILED(readRun(api, context, {product->inputs(), product->outputs(), product->levels(), heads}, &run));
    if (run.rows == 0) return nullptr;
    run.epsilon = epsilon;
    WorkMemory memory(api, allocator);
    void* work = nullptr;
    RETURN_IF_FAILED(memory.allocate(product->workBytes(run.rows), &work));
    ThreadedRun threads;
    product->run(run, work, threadsOf(api, context, &threads));
    return nullptr;
  }

  static const Routines* routines;

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cpuOperator<PrefixMatMul>();
    describeLayer(&op);
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return firstConstant + 1; };
    return op;
  }
};

const Routines* PrefixMatMul::routines = nullptr;

constexpr ort::CustomOp description = PrefixMatMul::describe();

}  // namespace

const ort::CustomOp* prefixMatMul(const Routines& routines) {
  PrefixMatMul::routines = &routines;
  return &description;
}

}  // namespace espalier
