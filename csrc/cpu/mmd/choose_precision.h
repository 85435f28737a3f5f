// Which precision each problem of a call is computed in (common/precision.h), from a sample of its rows.
#pragma once

#include "cpu/mmd/centering.h"
#include "cpu/mmd/mixture.h"

namespace awpf {

// Without columns, the rows are summed against themselves.
std::vector<SumPrecision> choose_precisions(const Points& points, const std::vector<PooledRows>& rows,
                                            const std::vector<PooledRows>& columns,
                                            const std::vector<KernelMixture>& mixtures,
                                            const std::vector<Centering>& centerings);

}  // namespace awpf
