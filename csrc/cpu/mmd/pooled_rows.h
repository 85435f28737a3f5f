// The pooled rows of one problem: which rows of z belong to which group.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/points.h"

namespace awpf {

struct Group {
  int64_t first_row;  // in z
  int64_t begin;      // position of that row in the pool
  int64_t length;

  int64_t end() const { return begin + length; }
};

// The groups of one problem, one after the other. A position counts the rows of the pool.
struct PooledRows {
  std::vector<Group> groups;
  int64_t size = 0;

  // The index of the group that holds a position.
  int64_t group_at(int64_t position) const;
  // Calls f(row of z, position, count) for each run of consecutive rows of z among the positions [begin, end).
  template <class F>
  void for_runs(int64_t begin, int64_t end, const F& f) const {
    for (int64_t g = begin < end ? group_at(begin) : 0; begin < end; ++g) {
      const Group& group = groups[g];
      const int64_t count = std::min(end, group.end()) - begin;
      if (count <= 0) continue;
      f(group.first_row + (begin - group.begin), begin, count);
      begin += count;
    }
  }
};

// The pooled rows of all problems. `ranges` is (problems, groups, 2): the first row of each group and one past its
// last.
std::vector<PooledRows> read_pooled_rows(const Tensor& ranges, const Points& points, const char* name);

}  // namespace awpf
