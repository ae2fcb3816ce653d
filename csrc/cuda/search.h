// Similarities of keypoints to the displacements of a search cube, and what is made of them without writing them. Formulas: core/correlate.h and
// core/displacement_search.h. Pointers are to contiguous arrays; 2-D images have i = 1, and positions of 2 numbers.
#pragma once
#include <cstdint>

#include "core/correlate.h"
#include "cuda/stored.h"

namespace regkit::cuda {

constexpr int kMostPatch = 12288;         // numbers of a keypoint's patch: samples times channels; 48 KB of shared memory
constexpr int kMostEmbeddedPatch = 1280;  // of each of the keypoints that share a block of embed_displacements

// Features lie in groups of four channels, (batch, channels / 4, voxels, 4): what a lane reads is one load of up to 16 bytes, and lanes side by side
// read one piece of memory. Channels are a multiple of 4 (zeros change no similarity).
struct SearchCall {
  const void *fixed, *moving;
  StoredAs stored;                    // of both
  const int64_t *keypoints, *centers;  // (batch, points, dims) voxels, within 2^30
  int dims;
  int64_t batch, channels, points, fixed_size[3], moving_size[3];
  int radius, stride, patch_radius, patch_stride;
  Metric metric;
};

// map: (batch, points, displacements), first axis slowest.
void search_map(const SearchCall& call, void* map, StoredAs as, Stream stream);

// displacement: (batch, points, dims); logsumexp: (batch, points).
void search_expected(const SearchCall& call, float sharpness, float* displacement, float* logsumexp, Stream stream);

void search_best(const SearchCall& call, float* displacement, Stream stream);

// basis: (displacements, columns); out: (shares, batch points, columns), which are to be summed over shares of the cube.
void search_embed(const SearchCall& call, const float* basis, int64_t columns, int64_t shares, float* out, Stream stream);

}  // namespace regkit::cuda
