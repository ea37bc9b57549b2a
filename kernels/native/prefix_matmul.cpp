#include "prefix_matmul.h"

#include "layer_attributes.h"
#include "memory.h"
#include "prefix_product.h"

namespace espalier {
namespace {

class PrefixMatMul final : public OperatorOf<ProductRun> {
 public:
  explicit PrefixMatMul(const Routines& routines) : routines_(routines) {}
  ~PrefixMatMul() override { delete product_; }
  PrefixMatMul(const PrefixMatMul&) = delete;
  PrefixMatMul& operator=(const PrefixMatMul&) = delete;

  ort::Status* prepare(const OperatorInfo& info) override {
    Layer layer;
    RETURN_IF_FAILED(readLayer(info, Constants::file, &layer));
    epsilon_ = layer.epsilon;
    heads_ = layer.heads;
    product_ = PrefixProduct::create(routines_, layer.shape, layer.chunks, layer.chunkCount);
    if (!product_) return failure(info.api, "PrefixMatMul: not enough memory to pack the weights");
    for (size_t c = 0; c < layer.chunkCount; c++) {
      const size_t blocks = blocksOf(layer.shape, layer.chunks[c]);
      dropMappedPages(layer.chunks[c].codes, blocks * layer.shape.blockSize / 2);
      dropMappedPages(layer.chunks[c].scales, blocks * sizeof(uint16_t));
    }
    return nullptr;
  }

  size_t columns() const override { return product_->outputs(); }
  size_t loops() const override { return PrefixProduct::loops; }

 protected:
  ort::Status* bind(Operands& operands, ProductRun& run) const override {
    run.epsilon = epsilon_;
    return readRun(operands, {product_->inputs(), product_->outputs(), product_->levels(), heads_}, &run);
  }

  size_t workBytes(const ProductRun& run) const override { return product_->workBytes(run.rows); }

  void compute(const ProductRun& run, void* work, const Parallel& parallel) const override {
    product_->run(run, work, parallel);
  }

 private:
  const Routines& routines_;
  PrefixProduct* product_ = nullptr;
  float epsilon_ = 0;
  size_t heads_ = 0;
};

CpuOperator* create(const Routines& routines) { return new (std::nothrow) PrefixMatMul(routines); }

void describeInputs(ort::CustomOp* op) {
  describeLayer(op);
  op->getInputCount = [](const ort::CustomOp*) -> size_t { return firstConstant + 1; };
}

}  // namespace

const OperatorKind prefixMatMul = {"PrefixMatMul", create, describeInputs};

}  // namespace espalier
