// Overlap of a label map with a linearly warped one on the CPU: sums per label, and the gradient by the displacement. Formulas:
// core/soft_dice.h.
#pragma once
#include <cstdint>
#include <vector>

namespace regkit {

enum class LabelType : int { u8, i8, u16, i16, i32, i64 };

template <class T>
struct SoftDiceCall {
  const void *fixed, *moving;    // label maps, one channel, contiguous: fixed of the displacement's size, moving of its own
  LabelType fixed_type, moving_type;
  const T* displacement;
  int dims;                      // 2 or 3
  int64_t batch, size[3], moving_size[3];  // (i, j, k), i = 1 in 2-D
  std::vector<int64_t> labels;   // those wanted, at most 65534, within 2^20 of each other
  int padding;                   // zeros or border
};

// sums (batch, 3, labels): both, warped, still; NaN for an item with a NaN displacement.
template <class T>
void soft_dice(const SoftDiceCall<T>& call, double* sums, int threads);

// tables (batch, 2, labels): derivatives by both and by warped.
template <class T>
void soft_dice_grad(const SoftDiceCall<T>& call, const T* tables, T* grad_displacement, int threads);

}  // namespace regkit
