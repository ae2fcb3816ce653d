// The way back from a gradient by the similarities of a search cube to the features, without the (keypoints, displacements) map of either
// in memory: blocks of keypoints at a time, whose gradients are some MB of scratch.
#pragma once
#include <cstdint>
#include <functional>

#include "cpu/correlate.h"

namespace regkit {

// How the gradient by the similarities comes about; rows have `displacements` numbers. Keypoints are counted over the whole batch. What is
// empty is left out.
template <class T>
struct SimilarityGradient {
  // Writes the rows of a block of keypoints; runs alone and may use all threads.
  std::function<void(const int64_t* keypoints, int64_t count, T* gradients)> of_block;
  // Writes one keypoint's row from its similarities.
  std::function<void(int64_t keypoint, const T* similarities, T* gradient)> of_keypoint;
  // Reads the similarities of a block; runs alone and may use all threads.
  std::function<void(const int64_t* keypoints, int64_t count, const T* similarities)> use_similarities;
};

template <class Stored, class T = arithmetic<Stored>>
void search_backward(const SearchCall<Stored>& call, const SimilarityGradient<T>& gradient, T* grad_fixed, T* grad_moving);

}  // namespace regkit
