// The state-space recurrence S = decay S + B (delta x), y = C S + D x, with S in registers.
//
// A warp has 16 channels of a head and all of its states: lane 4 n + q the four channels from 4 q on and the n-th
// eighth of the states. A row's y is summed over the eight lanes of a channel by shuffles, so warps do not wait for
// each other but where a new stage of rows is put into shared memory.
#include "lane_scan.h"
#include "lanes.cuh"

namespace espalier::cuda {
namespace {

constexpr int scanThreads = 128;
constexpr int sliceChannels = 64;
constexpr int warpChannels = 16;
constexpr int stageRows = 8;
constexpr int wideThreads = 256;

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

__device__ __forceinline__ int columnsOf(const ScanParameters& p) {
  return 2 * p.heads * p.channels + 2 * p.groups * p.states + p.heads;
}

__device__ __forceinline__ bool begins(const LaneLine& line) { return line.length == line.rows; }

// The input of a convolution `tap` taps behind the oldest that a row of the lane sees: from the state where it lies
// before the run. `column` counts in the packed row, `place` in a row of the state.
__device__ __forceinline__ float inputAt(const ScanParameters& p, const LaneLine& line, int row, int tap, int column,
                                         const float* state, int stateColumns, int place) {
  const int at = row + tap - (p.taps - 1);
  if (at >= 0) return p.packed[static_cast<size_t>(line.firstRow + at) * columnsOf(p) + column];
  if (begins(line)) return 0;
  return state[(static_cast<size_t>(line.slot) * (p.taps - 1) + (row + tap)) * stateColumns + place];
}

// Channel `channel` of a head's x, or state `state` of one of the 2G B and C, of a row of the lane.
__device__ __forceinline__ float convolvedX(const ScanParameters& p, const LaneLine& line, int row, int head,
                                            int channel) {
  const int of = head * p.fullChannels + channel, place = head * p.channels + channel;
  float sum = p.convXBias ? p.convXBias[of] : 0;
  for (int tap = 0; tap < p.taps; tap++) {
    const float input =
        inputAt(p, line, row, tap, p.heads * p.channels + place, p.convXState, p.heads * p.channels, place);
    sum = fmaf(p.convX[of * p.taps + tap], input, sum);
  }
  return silu(sum);
}

__device__ __forceinline__ float convolvedState(const ScanParameters& p, const LaneLine& line, int row, int group,
                                                int state) {
  const int of = group * p.fullStates + state, place = group * p.states + state;
  float sum = p.convBcBias ? p.convBcBias[of] : 0;
  for (int tap = 0; tap < p.taps; tap++) {
    const float input =
        inputAt(p, line, row, tap, 2 * p.heads * p.channels + place, p.convBcState, 2 * p.groups * p.states, place);
    sum = fmaf(p.convBc[of * p.taps + tap], input, sum);
  }
  return silu(sum);
}

// The step of a head in a row of the batch, and what the row leaves of the state.
__device__ __forceinline__ float2 discretize(const ScanParameters& p, int row, int head) {
  const float step =
      p.packed[static_cast<size_t>(row) * columnsOf(p) + (columnsOf(p) - p.heads + head)] + p.deltaBias[head];
  const float softplus = fmaxf(step, 0) + log1pf(expf(-fabsf(step)));
  const float delta = fminf(fmaxf(softplus, p.leastDelta), p.greatestDelta);
  return make_float2(delta, expf(-expf(p.aLog[head]) * delta));
}

// Rows that are ready for the recurrence, of a head and 64 of its channels.
template <int states>
struct Stage {
  float b[stageRows][states];  // zero behind N'
  float c[stageRows][states];
  float x[stageRows][sliceChannels];  // zero behind P'
  float2 steps[stageRows];            // delta, decay
};

// Where `convolveRows` leaves them.
struct Convolved {
  float* bc;      // [rows][2G][states]
  float* x;       // [rows][H][channels]
  float2* steps;  // [rows][H]
  int states;     // as a stage has them
  int channels;   // of whole slices
};

__device__ __forceinline__ Convolved convolvedOf(const ScanParameters& p) {
  Convolved convolved;
  convolved.states = p.states <= 64 ? 64 : p.states <= 128 ? 128 : 256;
  const size_t rows = static_cast<size_t>(p.rows);
  convolved.channels = divideUp(p.channels, sliceChannels) * sliceChannels;
  convolved.bc = p.work;
  convolved.x = convolved.bc + rows * 2 * p.groups * convolved.states;
  convolved.steps = reinterpret_cast<float2*>(convolved.x + rows * p.heads * convolved.channels);
  return convolved;
}

template <int states, bool few>
__device__ __forceinline__ void scanLane(const ScanParameters& p) {
  constexpr int perLane = states / 8;
  Stage<states>* const stages = dynamicShared<Stage<states>>();
  const LaneLine line = readLine(p.lanes + blockIdx.z);
  if (line.rows == 0) return;
  const int lane = laneIndex(), warp = static_cast<int>(threadIdx.x / 32);
  const int head = static_cast<int>(blockIdx.x), firstChannel = static_cast<int>(blockIdx.y) * sliceChannels;
  const int group = head / (p.heads / p.groups);
  const int width = p.widths[line.level], stateWidth = p.stateWidths[line.level];
  const int inSlice = warp * warpChannels + lane % 4 * 4, channel = firstChannel + inSlice;
  const int firstState = lane / 4 * perLane;

  // The state of this sequence was last written by an earlier step, so there is no need to wait.
  float* const stored =
      p.state +
      ((static_cast<size_t>(line.slot) * p.heads + head) * p.states + firstState) * static_cast<size_t>(p.channels) +
      channel;
  const bool wide = p.channels % 4 == 0 && channel + 4 <= width;
  float state[perLane][4];
#pragma unroll
  for (int n = 0; n < perLane; n++) {
    const bool there = !begins(line) && firstState + n < stateWidth;
    const float* from = stored + static_cast<size_t>(n) * p.channels;
    if (there && wide) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      state[n][0] = four.x;
      state[n][1] = four.y;
      state[n][2] = four.z;
      state[n][3] = four.w;
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) state[n][i] = there && channel + i < width ? from[i] : 0;
  }
  waitForPrevious();
  letNextStart();

  const auto fill = [&](int first, Stage<states>& stage) {
    const int rows = min(stageRows, line.rows - first), thread = static_cast<int>(threadIdx.x);
    if (few) {
      for (int i = thread; i < rows * states; i += scanThreads) {
        const int row = i / states, n = i % states;
        stage.b[row][n] = n < stateWidth ? convolvedState(p, line, first + row, group, n) : 0;
        stage.c[row][n] = n < stateWidth ? convolvedState(p, line, first + row, p.groups + group, n) : 0;
      }
      for (int i = thread; i < rows * sliceChannels; i += scanThreads) {
        const int row = i / sliceChannels, c = firstChannel + i % sliceChannels;
        stage.x[row][i % sliceChannels] = c < width ? convolvedX(p, line, first + row, head, c) : 0;
      }
      if (thread < rows) stage.steps[thread] = discretize(p, line.firstRow + first + thread, head);
      return;
    }
    const Convolved from = convolvedOf(p);
    constexpr int quads = states / 4, slice = sliceChannels / 4;
    for (int i = thread; i < rows * quads; i += scanThreads) {
      const int row = i / quads, n = i % quads * 4;
      const float* b = from.bc + (static_cast<size_t>(line.firstRow + first + row) * 2 * p.groups + group) * states + n;
      cpAsync16(&stage.b[row][n], b);
      cpAsync16(&stage.c[row][n], b + p.groups * states);
    }
    for (int i = thread; i < rows * slice; i += scanThreads) {
      const int row = i / slice, c = i % slice * 4;
      const size_t at = static_cast<size_t>(line.firstRow + first + row) * p.heads + head;
      cpAsync16(&stage.x[row][c], from.x + at * from.channels + firstChannel + c);
    }
    if (thread < rows) {
      stage.steps[thread] = from.steps[static_cast<size_t>(line.firstRow + first + thread) * p.heads + head];
    }
  };

  // Which of its four channels a lane has after the sums: lanes of the first four eighths have one each.
  const int own = inSlice + lane / 4 % 2 * 2 + lane / 8 % 2, ownChannel = firstChannel + own;
  const bool writes = lane < 16 && ownChannel < p.channels;
  float skip = 0;
  if (writes && ownChannel < width) skip = p.skip[p.skipPerChannel ? head * p.fullChannels + ownChannel : head];

  fill(0, stages[0]);
  cpAsyncCommit();
  for (int first = 0, at = 0; first < line.rows; first += stageRows, at ^= 1) {
    if (first + stageRows < line.rows) fill(first + stageRows, stages[at ^ 1]);
    cpAsyncCommit();
    cpAsyncWait<1>();
    __syncthreads();
    const Stage<states>& stage = stages[at];
    const int rows = min(stageRows, line.rows - first);
    for (int row = 0; row < rows; row++) {
      const float2 step = stage.steps[row];
      const float4 x = *reinterpret_cast<const float4*>(&stage.x[row][inSlice]);
      const float scaled[4] = {step.x * x.x, step.x * x.y, step.x * x.z, step.x * x.w};
      float y[4] = {};
#pragma unroll
      for (int n = 0; n < perLane; n += 4) {
        const float4 b = *reinterpret_cast<const float4*>(&stage.b[row][firstState + n]);
        const float4 c = *reinterpret_cast<const float4*>(&stage.c[row][firstState + n]);
        const float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            state[n + j][i] = fmaf(bs[j], scaled[i], step.y * state[n + j][i]);
            y[i] = fmaf(cs[j], state[n + j][i], y[i]);
          }
        }
      }
      // Halves the channels while it doubles the states that are summed: 4 of one eighth, 2 of a quarter, 1 of a half.
      const bool upper = lane / 4 % 2, odd = lane / 8 % 2;
      float two[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const float other = __shfl_xor_sync(allLanes, upper ? y[i] : y[i + 2], 4);
        two[i] = (upper ? y[i + 2] : y[i]) + other;
      }
      const float other = __shfl_xor_sync(allLanes, odd ? two[0] : two[1], 8);
      float sum = (odd ? two[1] : two[0]) + other;
      sum += __shfl_xor_sync(allLanes, sum, 16);
      if (writes) {
        const size_t out =
            (static_cast<size_t>(line.firstRow + first + row) * p.heads + head) * p.channels + ownChannel;
        p.y[out] = ownChannel < width ? fmaf(skip, stage.x[row][own], sum) : 0;
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int n = 0; n < perLane; n++) {
    if (firstState + n >= stateWidth) continue;
    float* to = stored + static_cast<size_t>(n) * p.channels;
    if (wide) {
      *reinterpret_cast<float4*>(to) = make_float4(state[n][0], state[n][1], state[n][2], state[n][3]);
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if (channel + i < width) to[i] = state[n][i];
    }
  }
}

// y = y silu(z) / sqrt(mean of its squares + epsilon) * norm, over the channels of a group of heads. The mean is over
// the full width: channels that a level lacks count as zeros.
__device__ __forceinline__ void normalize(const ScanParameters& p, int row, int group) {
  float* const gated = dynamicShared<float>();
  __shared__ float sums[wideThreads / 32];
  const int perGroup = p.heads / p.groups, count = perGroup * p.channels, thread = static_cast<int>(threadIdx.x);
  LaneLine line;
  const bool there = findLane(p.lanes, p.laneCount, row, &line);
  const int width = there ? p.widths[line.level] : 0;
  float* const y = p.y + (static_cast<size_t>(row) * p.heads + group * perGroup) * p.channels;
  const float* const z = p.packed + static_cast<size_t>(row) * columnsOf(p) + group * count;
  float sum = 0;
  for (int i = thread; i < count; i += wideThreads) {
    const float value = i % p.channels < width ? y[i] * silu(z[i]) : 0;
    gated[i] = value;
    sum = fmaf(value, value, sum);
  }
  sum = warpSum(sum);
  if (laneIndex() == 0) sums[thread / 32] = sum;
  __syncthreads();
  sum = 0;
#pragma unroll
  for (int w = 0; w < wideThreads / 32; w++) sum += sums[w];
  const float inverse = rsqrtf(sum / static_cast<float>(perGroup * p.fullChannels) + p.epsilon);
  for (int i = thread; i < count; i += wideThreads) {
    const int head = group * perGroup + i / p.channels, channel = i % p.channels;
    y[i] = channel < width ? gated[i] * inverse * p.norm[head * p.fullChannels + channel] : 0;
  }
}

// Makes the inputs of the last rows those that the next run begins with. A thread per channel; an input moves to an
// earlier place, so none is overwritten before it is read.
__device__ __forceinline__ void moveOn(const ScanParameters& p, const LaneLine& line, int i) {
  if (line.rows == 0) return;
  const int channels = p.heads * p.channels, states = 2 * p.groups * p.states, before = p.taps - 1;
  const bool ofX = i < channels;
  const int place = ofX ? i : i - channels;
  if (!ofX && place >= states) return;
  if (ofX ? place % p.channels >= p.widths[line.level] : place % p.states >= p.stateWidths[line.level]) return;
  float* const state = ofX ? p.convXState : p.convBcState;
  const int columns = ofX ? channels : states, column = channels + i;
  for (int tap = 0; tap < before; tap++) {
    const float input = inputAt(p, line, line.rows, tap, column, state, columns, place);
    state[(static_cast<size_t>(line.slot) * before + tap) * columns + place] = input;
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(scanThreads) scanFewRows64(const __grid_constant__ ScanParameters p) {
  scanLane<64, true>(p);
}
extern "C" __global__ void __launch_bounds__(scanThreads) scanFewRows128(const __grid_constant__ ScanParameters p) {
  scanLane<128, true>(p);
}
extern "C" __global__ void __launch_bounds__(scanThreads) scanFewRows256(const __grid_constant__ ScanParameters p) {
  scanLane<256, true>(p);
}
extern "C" __global__ void __launch_bounds__(scanThreads) scanManyRows64(const __grid_constant__ ScanParameters p) {
  scanLane<64, false>(p);
}
extern "C" __global__ void __launch_bounds__(scanThreads) scanManyRows128(const __grid_constant__ ScanParameters p) {
  scanLane<128, false>(p);
}
extern "C" __global__ void __launch_bounds__(scanThreads) scanManyRows256(const __grid_constant__ ScanParameters p) {
  scanLane<256, false>(p);
}

// Everything that a row brings to the recurrence, a thread per value.
extern "C" __global__ void __launch_bounds__(wideThreads) convolveRows(const __grid_constant__ ScanParameters p) {
  const Convolved to = convolvedOf(p);
  const int row = static_cast<int>(blockIdx.y);
  LaneLine line;
  const bool there = findLane(p.lanes, p.laneCount, row, &line);
  waitForPrevious();
  letNextStart();
  if (!there) return;
  const int inLane = row - line.firstRow, channels = p.heads * to.channels, states = 2 * p.groups * to.states;
  int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < channels) {
    const int channel = i % to.channels;
    const bool kept = channel < p.widths[line.level];
    to.x[static_cast<size_t>(row) * channels + i] = kept ? convolvedX(p, line, inLane, i / to.channels, channel) : 0;
    return;
  }
  i -= channels;
  if (i < states) {
    const int state = i % to.states;
    const bool kept = state < p.stateWidths[line.level];
    to.bc[static_cast<size_t>(row) * states + i] = kept ? convolvedState(p, line, inLane, i / to.states, state) : 0;
    return;
  }
  i -= states;
  if (i < p.heads) to.steps[static_cast<size_t>(row) * p.heads + i] = discretize(p, row, i);
}

// Blocks for every group of every row, then those that move a lane's inputs on.
extern "C" __global__ void __launch_bounds__(wideThreads) gateAndNormalize(const __grid_constant__ ScanParameters p) {
  waitForPrevious();
  letNextStart();
  const int block = static_cast<int>(blockIdx.x), norms = p.rows * p.groups;
  if (block < norms) return normalize(p, block / p.groups, block % p.groups);
  const int perLane = divideUp(p.heads * p.channels + 2 * p.groups * p.states, wideThreads);
  const LaneLine line = readLine(p.lanes + (block - norms) / perLane);
  moveOn(p, line, (block - norms) % perLane * wideThreads + static_cast<int>(threadIdx.x));
}

}  // namespace espalier::cuda
