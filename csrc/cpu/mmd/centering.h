// The centre of the points of each problem. Points are centred before they are rounded to single precision or
// multiplied, because distances do not depend on the origin and rounding errors do.
#pragma once

#include "cpu/mmd/pooled_rows.h"
#include "cpu/parallel.h"

namespace awpf {

struct Centering {
  std::vector<double> centre;
  double mean_square = 0;  // mean squared distance of the points from the centre
};

// The centres of all problems, over their rows and, if there are any, their columns. The centre is the mean of the
// points unless it is given: `given_centres` is null or holds one row per problem. Raises an error that names the row
// if a point holds NaN or infinity.
std::vector<Centering> find_centres(const Points& points, const std::vector<PooledRows>& rows,
                                    const std::vector<PooledRows>& columns, const double* given_centres);

// Replaces a centre by that of the bulk of the points, where a few far away have drawn it out. `columns` may be null.
void centre_the_bulk(const Points& points, const PooledRows& rows, const PooledRows* columns,
                     std::vector<double>& centre, EarlyEnd& end_early);

// Raises an error about points whose sums of squares are not finite: names the first row that is not finite, or says
// that a squared norm overflows.
[[noreturn]] void report_row(const Points& points, const PooledRows& pooled);

}  // namespace awpf
