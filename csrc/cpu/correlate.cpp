// The map of keypoint correlations on the CPU. Bytes a displacement: one result written; the window of the moving image is read once per
// keypoint, mostly from cache because keypoints are visited by locality. FLOPs: 3 C P (ssd) or 2 C P (dot), P samples a patch:
// compute-bound from P = 27 on.
#include "cpu/correlate.h"

#include "cpu/correlate_search.h"
#include "cpu/pages.h"

namespace regkit {

template <class Stored>
void correlate(const SearchCall<Stored>& call, Stored* out) {
  const int64_t displacements = call.sizes.displacements();
  advise_large_pages(out, call.sizes.batch * call.sizes.keypoints * displacements);
  for_keypoints(call, 16, [&](Correlator<Stored>& correlator, const int64_t* keypoints, int64_t count) {
    for (int64_t item = 0; item < count; ++item) {
      correlator.run(keypoints[item]);
      correlator.write(out + keypoints[item] * displacements);
    }
  });
}

#define REGKIT_INSTANTIATE(S) template void correlate<S>(const SearchCall<S>&, S*);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
