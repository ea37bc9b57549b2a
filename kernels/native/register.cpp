// What ONNX Runtime and the service ask of the library.
#include <cstdlib>

#include "cached_attention.h"
#include "chain.h"
#include "operator_node.h"
#include "prefix_matmul.h"
#include "routines.h"
#include "selective_scan.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

// A processor may be asked to do with less than it has, to compare.
const espalier::Routines* chosenRoutines() {
  const char* name = std::getenv("ESPALIER_INSTRUCTION_SET");
  return espalier::routinesFor(name && *name ? name : nullptr);
}

}  // namespace

// Name of the instruction set in use; null if the one asked for is not there.
EXPORTED const char* EspalierInstructionSet() {
  const espalier::Routines* routines = chosenRoutines();
  return routines ? routines->name : nullptr;
}

// Name of the instruction set that this library was compiled without, since the compiler did not know it; null if none.
EXPORTED const char* EspalierLeftOut() {
#if defined(WITHOUT_AVXVNNI)
  return "avxvnni";
#else
  return nullptr;
#endif
}

// Called for every session-options object that is to know our operators.
EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api api = base->getApi(ort::apiVersion);
  if (!api) {
    return ort::CreateStatus::call(base->getApi(1), ort::failed, "Cannot register operators: needs ONNX Runtime 1.17");
  }
  const espalier::Routines* routines = chosenRoutines();
  if (!routines) {
    return espalier::failure(api, "This processor has no instruction set \"%s\"",
                             std::getenv("ESPALIER_INSTRUCTION_SET"));
  }
  const ort::CustomOp* operators[] = {espalier::nodeOf<espalier::prefixMatMul>(*routines),
                                      espalier::nodeOf<espalier::cachedAttention>(*routines),
                                      espalier::nodeOf<espalier::selectiveScan>(*routines), espalier::chain(*routines)};
  static ort::Domain* domain = nullptr;  // made once, never released
  if (!domain) {
    ort::Domain* fresh = nullptr;
    RETURN_IF_FAILED(ort::CreateDomain::call(api, "espalier", &fresh));
    for (const ort::CustomOp* op : operators) RETURN_IF_FAILED(ort::AddToDomain::call(api, fresh, op));
    domain = fresh;
  }
  return ort::AddDomain::call(api, options, domain);
}
