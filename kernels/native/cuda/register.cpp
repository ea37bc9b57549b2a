// The library's symbols.
#include "cuda_operator.h"
#include "operators.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

using namespace espalier;

// Why the kernels cannot run here; null if they can. Loads them.
EXPORTED const char* EspalierCudaProblem() {
  const cuda::Device* device = nullptr;
  return cuda::openDevice(&device);
}

// The device's compute capability times ten, such as 90; 0 if the kernels cannot run here.
EXPORTED int EspalierComputeCapability() {
  const cuda::Device* device = nullptr;
  return cuda::openDevice(&device) ? 0 : device->computeCapability;
}

// Called for every session-options object that is to know our operators.
EXPORTED ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  const ort::Api api = base->getApi(ort::apiVersion);
  if (!api) {
    return ort::CreateStatus::call(base->getApi(1), ort::failed, "Cannot register operators: needs ONNX Runtime 1.17");
  }
  const ort::CustomOp* operators[] = {cuda::stepPlan(),        cuda::embed(),         cuda::prefixMatMul(),
                                      cuda::cachedAttention(), cuda::selectiveScan(), cuda::likeliest()};
  static ort::Domain* domain = nullptr;  // made once, never released
  if (!domain) {
    ort::Domain* fresh = nullptr;
    RETURN_IF_FAILED(ort::CreateDomain::call(api, "espalier.cuda", &fresh));
    for (const ort::CustomOp* op : operators) RETURN_IF_FAILED(ort::AddToDomain::call(api, fresh, op));
    domain = fresh;
  }
  return ort::AddDomain::call(api, options, domain);
}
