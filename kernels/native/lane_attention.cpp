#include "lane_attention.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "rounding.h"

namespace espalier {
namespace {

// Tokens of a stretch. A softmax is always joined from the same stretches, so whether they are worked on one after
// another or by several threads does not show.
constexpr size_t stretchTokens = 256;

// With fewer tasks than this, the stretches of a task are tasks themselves.
constexpr size_t fewTasks = 16;

// Multiplications below which other threads are not worth it: some half of a microsecond.
constexpr size_t serialProducts = size_t{1} << 12;

// One thread makes all calls where several would cost more than they bring.
template <typename Body>
void forEach(const Parallel& parallel, bool serial, size_t total, Body&& body) {
  if (!serial) return parallel.forEach(total, std::forward<Body>(body));
  parallel.once([&] {
    for (size_t i = 0; i < total; i++) body(i);
  });
}

}  // namespace

// Some queries of one key head of one lane. A query is a row and one of the query heads that share the key head,
// counted row by row.
struct LaneAttention::Task {
  const Lane* lane;
  size_t firstRow;  // of the lane, in the batch
  size_t head;      // key head
  size_t firstQuery, count;
  size_t queriesPerRow;

  size_t rowOf(size_t query) const { return (firstQuery + query) / queriesPerRow; }  // in the lane
  size_t headOf(size_t query) const { return head * queriesPerRow + (firstQuery + query) % queriesPerRow; }
  // Tokens that a query sees: those before it and its own.
  size_t visible(size_t query) const { return lane->length - lane->rows + rowOf(query) + 1; }
  size_t stretches() const { return ceilDivide(visible(count - 1), stretchTokens); }
};

struct LaneAttention::Plan {
  size_t tasks;
  size_t units;    // at least the stretches of all tasks
  size_t queries;  // of the largest task
  size_t widest;   // of the lanes that work
  bool split;      // every stretch is worked on by itself
  bool serial;     // on the calling thread alone
  bool append;     // a task has all queries of its head, so it can extend the caches itself

  size_t bytesPerTask() const { return roundUp(queries * widest * sizeof(float), alignment); }
  size_t bytesPerUnit() const { return roundUp(queries * (widest + 2) * sizeof(float), alignment); }
};

// An unfinished softmax of some queries.
struct LaneAttention::State {
  float* greatest;  // [queries]
  float* totals;    // [queries]
  float* sums;      // [queries][width]

  void clear(size_t queries, size_t width) const {
    for (size_t q = 0; q < queries; q++) greatest[q] = -INFINITY;
    std::memset(totals, 0, queries * sizeof(float));
    std::memset(sums, 0, queries * width * sizeof(float));
  }
};

size_t LaneAttention::blocksOf(const Lane& lane) const {
  return ceilDivide(lane.rows * (shape_.queryHeads / shape_.keyHeads), maxQueries);
}

LaneAttention::Plan LaneAttention::plan(const AttentionRun& run) const {
  Plan plan{};
  plan.append = true;
  const size_t perRow = shape_.queryHeads / shape_.keyHeads;
  size_t products = 0;
  for (size_t i = 0; i < run.laneCount; i++) {
    const Lane& lane = run.lanes[i];
    if (lane.rows == 0) continue;
    const size_t blocks = blocksOf(lane);
    plan.tasks += blocks * shape_.keyHeads;
    plan.append = plan.append && blocks == 1;
    plan.units += blocks * shape_.keyHeads * ceilDivide(lane.length, stretchTokens);
    const size_t queries = least(lane.rows * perRow, maxQueries);
    plan.queries = queries > plan.queries ? queries : plan.queries;
    plan.widest = lane.width > plan.widest ? lane.width : plan.widest;
    products += lane.rows * lane.length * lane.width * shape_.queryHeads;
  }
  plan.serial = products < serialProducts;
  plan.split = !plan.serial && plan.tasks < fewTasks && plan.units > plan.tasks;
  plan.append = plan.append && !plan.split;
  return plan;
}

size_t LaneAttention::workBytes(const AttentionRun& run) const {
  const Plan plan = this->plan(run);
  if (!plan.split) return 0;
  return plan.tasks * plan.bytesPerTask() + plan.units * plan.bytesPerUnit();
}

LaneAttention::Task LaneAttention::taskAt(const AttentionRun& run, size_t index) const {
  const size_t perRow = shape_.queryHeads / shape_.keyHeads;
  size_t firstRow = 0;
  const Lane* lane = run.lanes;
  for (size_t tasks; index >= (tasks = blocksOf(*lane) * shape_.keyHeads); lane++) {
    index -= tasks;
    firstRow += lane->rows;
  }
  // The last rows see most: they come first, so that no thread is left with a long task at the end.
  const size_t block = blocksOf(*lane) - 1 - index / shape_.keyHeads;
  const size_t firstQuery = block * maxQueries;
  return {lane,  firstRow, index % shape_.keyHeads, firstQuery, least(maxQueries, lane->rows * perRow - firstQuery),
          perRow};
}

void LaneAttention::gatherAngles(const AttentionRun& run, size_t token, size_t head, size_t width, float* cosines,
                                 float* sines) const {
  const int64_t* pairs = run.pairs + head * (shape_.widest / 2);
  for (size_t pair = 0; pair < width / 2; pair++) {
    const size_t at = token * run.frequencies + static_cast<size_t>(pairs[pair]);
    cosines[pair] = run.cosines[at];
    sines[pair] = run.sines[at];
  }
}

// Puts the keys and values of a lane's rows behind those of its cache.
void LaneAttention::append(const AttentionRun& run, const Lane& lane, size_t firstRow, size_t head) const {
  const size_t heads = shape_.queryHeads + 2 * shape_.keyHeads;
  float cosines[maxHeadWidth / 2], sines[maxHeadWidth / 2], rotated[maxHeadWidth];
  Half key[maxHeadWidth];
  for (size_t row = 0; row < lane.rows; row++) {
    const float* packed = run.packed + (firstRow + row) * heads * shape_.widest;
    const float* packedKey = packed + (shape_.queryHeads + head) * shape_.widest;
    const size_t token = lane.length - lane.rows + row;
    if (run.cosines) gatherAngles(run, token, head, lane.width, cosines, sines);
    routines_.rotateHead(packedKey, run.cosines ? cosines : nullptr, sines, lane.width, 1.0f, rotated);
    routines_.toHalves(rotated, lane.width, key);
    Half* keys = lane.keys + (head * lane.capacity + token / keyTokens * keyTokens) * lane.width + token % keyTokens;
    for (size_t i = 0; i < lane.width; i++) keys[i * keyTokens] = key[i];
    routines_.toHalves(packedKey + shape_.keyHeads * shape_.widest, lane.width,
                       lane.values + (head * lane.capacity + token) * lane.width);
  }
}

void LaneAttention::rotateQueries(const AttentionRun& run, const Task& task, float* queries) const {
  const size_t heads = shape_.queryHeads + 2 * shape_.keyHeads;
  const size_t width = task.lane->width;
  float cosines[maxHeadWidth / 2], sines[maxHeadWidth / 2];
  for (size_t query = 0; query < task.count; query++) {
    const size_t row = task.firstRow + task.rowOf(query);
    if (run.cosines && (query == 0 || task.rowOf(query) != task.rowOf(query - 1))) {
      gatherAngles(run, task.visible(query) - 1, task.head, width, cosines, sines);
    }
    routines_.rotateHead(run.packed + (row * heads + task.headOf(query)) * shape_.widest,
                         run.cosines ? cosines : nullptr, sines, width, shape_.scale, queries + query * width);
  }
}

void LaneAttention::attend(const Task& task, const float* queries, size_t stretch, const State& state) const {
  const Lane& lane = *task.lane;
  size_t visible[maxQueries];
  for (size_t query = 0; query < task.count; query++) visible[query] = task.visible(query);
  AttentionStretch p{};
  p.queries = queries;
  p.count = task.count;
  p.width = lane.width;
  p.keys = lane.keys + task.head * lane.capacity * lane.width;
  p.values = lane.values + task.head * lane.capacity * lane.width;
  p.first = stretch * stretchTokens;
  p.last = least(p.first + stretchTokens, visible[task.count - 1]);
  p.visible = visible;
  p.greatest = state.greatest;
  p.totals = state.totals;
  p.sums = state.sums;
  state.clear(task.count, lane.width);
  routines_.attend(p);
}

void LaneAttention::join(const Task& task, const State& whole, const State& next) const {
  const size_t width = task.lane->width;
  for (size_t query = 0; query < task.count; query++) {
    routines_.join(width, whole.greatest + query, whole.totals + query, whole.sums + query * width,
                   next.greatest[query], next.totals[query], next.sums + query * width);
  }
}

void LaneAttention::store(const AttentionRun& run, const Task& task, const State& state) const {
  const size_t width = task.lane->width;
  for (size_t query = 0; query < task.count; query++) {
    const size_t row = task.firstRow + task.rowOf(query);
    float* y = run.y + (row * shape_.queryHeads + task.headOf(query)) * shape_.widest;
    const float* sums = state.sums + query * width;
    const float inverse = 1.0f / state.totals[query];
    for (size_t i = 0; i < width; i++) y[i] = sums[i] * inverse;
    std::memset(y + width, 0, (shape_.widest - width) * sizeof(float));
  }
}

// All stretches of a task, one after another.
void LaneAttention::runWhole(const AttentionRun& run, const Task& task) const {
  alignas(alignment) float queries[maxQueries * maxHeadWidth], sums[2][maxQueries * maxHeadWidth];
  float greatest[2][maxQueries], totals[2][maxQueries];
  const State whole{greatest[0], totals[0], sums[0]}, next{greatest[1], totals[1], sums[1]};
  rotateQueries(run, task, queries);
  attend(task, queries, 0, whole);
  for (size_t stretch = 1; stretch < task.stretches(); stretch++) {
    attend(task, queries, stretch, next);
    join(task, whole, next);
  }
  store(run, task, whole);
}

void LaneAttention::run(const AttentionRun& run, void* work, const Parallel& parallel) const {
  const Plan plan = this->plan(run);
  if (plan.append) {
    return forEach(parallel, plan.serial, plan.tasks, [&](size_t index) {
      const Task task = taskAt(run, index);
      append(run, *task.lane, task.firstRow, task.head);
      runWhole(run, task);
    });
  }
  forEach(parallel, plan.serial, run.laneCount * shape_.keyHeads, [&](size_t index) {
    const size_t at = index / shape_.keyHeads;
    size_t firstRow = 0;
    for (size_t i = 0; i < at; i++) firstRow += run.lanes[i].rows;
    append(run, run.lanes[at], firstRow, index % shape_.keyHeads);
  });
  if (!plan.split) {
    return forEach(parallel, plan.serial, plan.tasks, [&](size_t index) { runWhole(run, taskAt(run, index)); });
  }

  // One piece of work memory per task for its queries, then one per stretch.
  uint8_t* bytes = static_cast<uint8_t*>(work);
  const auto queriesOf = [&](size_t task) { return reinterpret_cast<float*>(bytes + task * plan.bytesPerTask()); };
  const auto stateOf = [&](size_t unit) {
    float* at = reinterpret_cast<float*>(bytes + plan.tasks * plan.bytesPerTask() + unit * plan.bytesPerUnit());
    return State{at, at + plan.queries, at + 2 * plan.queries};
  };
  Task tasks[fewTasks];
  size_t firstUnit[fewTasks + 1] = {};
  for (size_t i = 0; i < plan.tasks; i++) {
    tasks[i] = taskAt(run, i);
    firstUnit[i + 1] = firstUnit[i] + tasks[i].stretches();
  }
  parallel.forEach(plan.tasks, [&](size_t i) { rotateQueries(run, tasks[i], queriesOf(i)); });
  parallel.forEach(firstUnit[plan.tasks], [&](size_t unit) {
    size_t task = 0;
    while (firstUnit[task + 1] <= unit) task++;
    attend(tasks[task], queriesOf(task), unit - firstUnit[task], stateOf(unit));
  });
  parallel.forEach(plan.tasks, [&](size_t i) {
    const State whole = stateOf(firstUnit[i]);
    for (size_t unit = firstUnit[i] + 1; unit < firstUnit[i + 1]; unit++) join(tasks[i], whole, stateOf(unit));
    store(run, tasks[i], whole);
  });
}

}  // namespace espalier
