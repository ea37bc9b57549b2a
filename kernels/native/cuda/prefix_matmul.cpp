#include <memory>

#include "../layer_attributes.h"
#include "../memory.h"
#include "cuda_operator.h"
#include "operators.h"
#include "prefix_product.h"

namespace espalier::cuda {
namespace {

// Codes, scales, and a bias.
constexpr size_t inputsOfChunk = 3;

constexpr size_t kernelCount = sizeof(productKernels) / sizeof(*productKernels);

struct PrefixMatMul {
  explicit PrefixMatMul(ort::Api api) : api(api) {}
  ~PrefixMatMul() {
    release(packed);
    if (allocator) ort::ReleaseAllocator::call(api, allocator);
  }
  PrefixMatMul(const PrefixMatMul&) = delete;
  PrefixMatMul& operator=(const PrefixMatMul&) = delete;

  ort::Api api;
  ort::Allocator* allocator = nullptr;
  const Device* device = nullptr;
  const Function* functions[kernelCount] = {};
  void* packed = nullptr;  // on the device
  ProductParameters plan{};
  LayerSizes sizes{};

  ort::Status* prepare(const ort::KernelInfo* info) {
    Layer layer;
    RETURN_IF_FAILED(ort::GetAllocator::call(api, info, 0, &allocator));
    RETURN_IF_FAILED(readLayer({api, info}, Constants::inputs, &layer));
    ProductPlan product;
    if (const char* reason = planProduct(layer.shape, layer.chunks, layer.chunkCount, &product)) {
      return failure(api, "PrefixMatMul: %zu chunks of blocks of %zu: %s", layer.chunkCount, layer.shape.blockSize,
                     reason);
    }
    const std::unique_ptr<uint8_t[]> host(new (std::nothrow) uint8_t[product.packedBytes()]);
    if (!host) return failure(api, "PrefixMatMul: not enough memory to pack the weights");
    packProduct(layer.shape, layer.chunks, layer.chunkCount, product, host.get());
    RETURN_IF_DRIVER_FAILED(upload(host.get(), product.packedBytes(), &packed));
    plan = placeProduct(product, packed);
    plan.epsilon = layer.epsilon;
    size_t levels = 0;
    for (size_t c = 0; c < layer.chunkCount; c++) {
      if (layer.chunks[c].level >= levels) levels = layer.chunks[c].level + 1;
    }
    for (size_t c = 0; c < layer.chunkCount; c++) {
      const size_t blocks = blocksOf(layer.shape, layer.chunks[c]);
      dropMappedPages(layer.chunks[c].codes, blocks * layer.shape.blockSize / 2);
      dropMappedPages(layer.chunks[c].scales, blocks * sizeof(uint16_t));
    }
    sizes = {static_cast<size_t>(plan.inputs), static_cast<size_t>(plan.outputs), levels, layer.heads};
    RETURN_IF_DRIVER_FAILED(openDevice(&device));
    for (size_t i = 0; i < kernelCount; i++) {
      const auto kernel = static_cast<ProductKernel>(i);
      if (!productDevice().wide && kernel >= ProductKernel::prepareTiles) continue;
      RETURN_IF_DRIVER_FAILED(findFunction(productKernels[i], mostSharedBytes(kernel), &functions[i]));
    }
    return nullptr;
  }

  ProductDevice productDevice() const { return {device->multiprocessors, device->computeCapability == 90}; }

  ort::Status* compute(ort::KernelContext* context) const {
    ProductRun run{};
    NodeOperands operands(api, context);
    RETURN_IF_FAILED(readRun(operands, sizes, &run));
    if (run.rows == 0) return nullptr;
    ProductParameters parameters = plan;
    parameters.x = run.x;
    parameters.rowsUpTo = run.rowsUpTo;
    parameters.normWeight = run.normWeight;
    parameters.residual = run.residual;
    parameters.y = run.y;
    parameters.rows = static_cast<int>(run.rows);
    WorkMemory memory(api, allocator);
    if (const size_t bytes = preparedBytes(plan, parameters.rows, productDevice())) {
      void* work = nullptr;
      RETURN_IF_FAILED(memory.allocate(bytes, &work));
      parameters.prepared = static_cast<uint16_t*>(work);
    }
    Stream* stream = nullptr;
    RETURN_IF_FAILED(streamOf(api, context, &stream));
    ProductLaunch launches[2];
    const size_t count = productLaunches(parameters, parameters.rows, productDevice(), launches);
    for (size_t i = 0; i < count; i++) {
      const ProductLaunch& next = launches[i];
      RETURN_IF_DRIVER_FAILED(launch({functions[static_cast<size_t>(next.kernel)],
                                      {next.gridX, next.gridY, 1},
                                      next.threads,
                                      next.sharedBytes,
                                      true},
                                     stream, &parameters));
    }
    return nullptr;
  }

  static constexpr ort::CustomOp describe() {
    ort::CustomOp op = cudaOperator<PrefixMatMul>();
    describeLayer(&op);
    // Constants stay on the host until they are packed. Only inputs that are counted here can be asked for there, so
    // none is variadic.
    op.getInputCount = [](const ort::CustomOp*) -> size_t { return firstConstant + inputsOfChunk * maxSegments; };
    op.getInputMemory = [](const ort::CustomOp*, size_t index) {
      return index < firstConstant ? ort::ownMemory : ort::cpuMemory;
    };
    return op;
  }
};

constexpr ort::CustomOp description = PrefixMatMul::describe();

}  // namespace

const ort::CustomOp* prefixMatMul() { return &description; }

}  // namespace espalier::cuda
