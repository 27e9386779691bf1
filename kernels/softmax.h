#pragma once

#include <cstdint>

#include "kernels/gemm.h"
#include "runtime/tensor.h"

/// Softmax and the losses over it, for selected positions only. Probabilities come from exponentials good to 2 ulp of
/// fp32; sums within a row are accumulated in fp64, those of four exponentials in fp32. The logarithm of a row's sum is
/// good to (6 + 2.3 E|logit - highest|) 2^-24, E with regard to the row's softmax.
namespace loci {

/// log_sum[r] = log sum_j exp(logits[r, j]); logits [rows, V], log_sum [rows, 1].
void log_sum_exp(Context& context, ConstView logits, View log_sum);

/// probabilities[r] = softmax(logits[r]); may alias.
void softmax(Context& context, ConstView logits, View probabilities);

/// log_probabilities[i] = log softmax(logits[rows[i]])[targets[i]]; [n, 1]. One row may serve several targets.
void target_log_probabilities(Context& context, ConstView logits, const DeviceArray<int64_t>& rows,
                              const DeviceArray<int32_t>& targets, View log_probabilities);

/// best[r] = arg max_j logits[r, j]; the lowest index where several are equal.
void argmax_rows(Context& context, ConstView logits, DeviceArray<int32_t>& best);

/// Cross-entropy with q, the wanted distribution: losses[i] = -weights[i] sum_j q_j log softmax(logits[i])_j and
/// dlogits[i] = or += weights[i] (softmax(logits[i]) - q). logits, dlogits [n, V]; may alias where assigned; losses
/// [n, 1]. A target of -1 gives 0 for its row. `smoothing` = 0: q is targets[i] alone. Above: all other tokens share so
/// much of it equally (label smoothing, Szegedy et al. 2016, section 7, as fairseq has it); V is then at least 2.
void cross_entropy(Context& context, ConstView logits, const DeviceArray<int32_t>& targets,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write, float smoothing = 0);

/// KL(p || q) = sum_j p_j (log p_j - log q_j) with p = softmax(logits[i]), log q = reference_log_probabilities[i] [n,
/// V]: losses[i] = weights[i] KL, dlogits[i] = or += weights[i] dKL/dlogits[i]. The direction of ROME's essence term
/// as its published code has it (compute_v.py), with p the edited and q the original model's.
void kl_divergence(Context& context, ConstView logits, ConstView reference_log_probabilities,
                   const DeviceArray<float>& weights, View losses, View dlogits, Write write);

/// log_probabilities[r] = logits[r] - log_sum_exp(logits[r]); may alias.
void log_softmax(Context& context, ConstView logits, View log_probabilities);

}  // namespace loci
