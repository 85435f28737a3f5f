// The pairs of rows whose median distance is the default bandwidth, on every device.
//
// All pairs of a pool would take as long as the kernel sums themselves. The rows are put into a random order, in a
// circle, and each is compared with the next few: every row counts equally often, and no two pairs are alike. The error
// of such a median is governed by the number of different rows, so that few pairs of many rows are better than all
// pairs of few rows.
#pragma once

#include "common/shuffle.h"

namespace awpf {

struct MedianPairs {
  int64_t pool;      // rows there are
  int64_t rows;      // of them, those that are looked at
  int64_t partners;  // with how many of its successors a row is compared
  uint64_t seed;

  // At least this many pairs, if there are as many.
  static constexpr int64_t kPairs = 1024;

  AWPF_HOST_DEVICE static int64_t partners_for(int64_t rows) {
    const int64_t wanted = rows < kPairs / 2 ? (kPairs + rows - 1) / (rows > 1 ? rows : 1) : 2;
    return wanted < rows / 2 ? wanted : rows / 2;
  }
  // No pool has more pairs, if at most max_rows of its rows are looked at.
  static int64_t most_pairs(int64_t max_rows) {
    const int64_t few_rows = kPairs + kPairs / 2;
    return few_rows > 2 * max_rows ? few_rows : 2 * max_rows;
  }
  AWPF_HOST_DEVICE static MedianPairs of(int64_t pool, int64_t max_rows, uint64_t seed) {
    const int64_t rows = pool < max_rows ? pool : max_rows;
    return {pool, rows, partners_for(rows), seed};
  }

  // The partners of the row at a place of the circle, and the pairs of the places before it. If all pairs of an even
  // number of rows are wanted, a row and its opposite are one pair.
  AWPF_HOST_DEVICE int64_t partners_of(int64_t place) const { return partners - (repeats(place + 1) - repeats(place)); }
  AWPF_HOST_DEVICE int64_t first_pair(int64_t place) const { return place * partners - repeats(place); }
  AWPF_HOST_DEVICE int64_t count() const { return first_pair(rows); }
  // Whether the rows are a sample of the pool, and whether their order matters.
  AWPF_HOST_DEVICE bool is_sampled() const { return rows < pool; }
  AWPF_HOST_DEVICE bool is_shuffled() const { return partners < rows / 2; }

 private:
  AWPF_HOST_DEVICE int64_t repeats(int64_t places) const {
    return 2 * partners == rows && places > rows / 2 ? places - rows / 2 : 0;
  }
};

// The position in the pool of the row at a place of the circle. `around` is the key for the rows looked at, `sample`
// that for the pool. Row number k of a sample is the same one whether the sample is drawn here or was collected from
// several processes beforehand.
AWPF_HOST_DEVICE inline int64_t median_position(const MedianPairs& pairs, int64_t place, const ShuffleKey& around,
                                                const ShuffleKey& sample) {
  uint32_t position = uint32_t(place);
  if (pairs.is_shuffled()) position = shuffled(position, uint32_t(pairs.rows), around);
  if (pairs.is_sampled()) position = shuffled(position, uint32_t(pairs.pool), sample);
  return position;
}

}  // namespace awpf
