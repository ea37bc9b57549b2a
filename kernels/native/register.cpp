// What ONNX Runtime and the service ask of the library.
#include <cstdlib>

#include "chain.h"
#include "operator_node.h"
#include "operators.h"
#include "routines.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

constexpr size_t mostKinds = 16;

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

// Name of the instruction set of that number among those that can be asked for here, best first; null behind the last.
EXPORTED const char* EspalierInstructionSetAt(size_t number) {
  for (const espalier::Routines* const* routines = espalier::allRoutines; *routines; routines++) {
    if ((*routines)->supported() && number-- == 0) return (*routines)->name;
  }
  return nullptr;
}

// Names of the instruction sets that this library was compiled without, since the compiler did not know them; null if
// none.
EXPORTED const char* EspalierLeftOut() {
#if defined(WITHOUT_AMX) && defined(WITHOUT_AVXVNNI)
  return "amx, avxvnni";
#elif defined(WITHOUT_AMX)
  return "amx";
#elif defined(WITHOUT_AVXVNNI)
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
  // What the runtime points to as long as the process runs. Its kernels have the routines that were chosen last.
  static ort::Domain* domain = nullptr;
  static espalier::NodeDescription nodes[mostKinds];
  const ort::CustomOp* chain = espalier::chain(*routines);
  size_t kinds = 0;
  for (; espalier::operatorKinds[kinds]; kinds++) {
    if (kinds == mostKinds) return espalier::failure(api, "More than %zu kinds of operators", mostKinds);
    nodes[kinds] = espalier::describeNode(*espalier::operatorKinds[kinds], *routines);
  }
  if (!domain) {
    ort::Domain* fresh = nullptr;
    RETURN_IF_FAILED(ort::CreateDomain::call(api, "espalier", &fresh));
    for (size_t i = 0; i < kinds; i++) RETURN_IF_FAILED(ort::AddToDomain::call(api, fresh, &nodes[i]));
    RETURN_IF_FAILED(ort::AddToDomain::call(api, fresh, chain));
    domain = fresh;
  }
  return ort::AddDomain::call(api, options, domain);
}
