// What the nodes of our linear layer say of it, whichever provider runs them.
#pragma once

#include "operator.h"
#include "prefix_product.h"

namespace espalier {

constexpr size_t maxChunks = 64;

// Inputs of a node before its constants.
enum LayerInput : size_t { x = 0, rowsUpTo = 1, normWeight = 2, residual = 3, firstConstant = 4 };

// How a node has its constants, which are codes, scales and, if it has one, the bias of every chunk.
enum class Constants {
  inputs,  // each is an input
  file,    // one input is the file they lie in, uint8 [bytes]; the attribute `places` says where each begins
};

struct Layer {
  ProductShape shape;
  StoredChunk chunks[maxChunks];  // their codes, scales and biases where the provider keeps its constants
  size_t chunkCount;
  float epsilon;
  size_t heads;  // of an output of rank 3; 0 for rank 2
};

// Reads and checks an operator's attributes and constants.
ort::Status* readLayer(const OperatorInfo&, Constants, Layer* out);

// Codes of all stored rows of a chunk, in blocks.
size_t blocksOf(const ProductShape&, const StoredChunk&);

// Sizes of a layer that a run must agree with.
struct LayerSizes {
  size_t inputs, outputs, levels, heads;
};

// Reads and checks a run's inputs, and makes its output. `epsilon` is left alone.
ort::Status* readRun(Operands&, const LayerSizes&, ProductRun* out);

// The description's fields that do not depend on the provider.
constexpr void describeLayer(ort::CustomOp* op) {
  op->getName = [](const ort::CustomOp*) -> const char* { return "PrefixMatMul"; };
  op->getInputType = [](const ort::CustomOp*, size_t index) {
    return index == rowsUpTo ? ort::int64 : index < firstConstant ? ort::float32 : ort::anyType;
  };
  op->getInputPresence = [](const ort::CustomOp*, size_t index) {
    return index == LayerInput::x ? ort::required : ort::optional;
  };
}

}  // namespace espalier
