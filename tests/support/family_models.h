#pragma once

#include <vector>

#include "model/families/families.h"

/// Small models of odd shape of every family but GPT-2, for comparisons with PlainGpt.
namespace loci::test {

struct FamilyCase {
  const char* name;
  Architecture config;
};

inline Architecture small_architecture(const Family& family, int64_t heads, int64_t key_heads, int64_t head_width,
                                       int64_t width) {
  Architecture a;
  a.family = &family;
  a.layers = 3;
  a.width = width;
  a.heads = heads;
  a.key_heads = key_heads;
  a.head_width = head_width;
  a.mlp_width = 35;
  a.vocabulary = 47;
  a.positions = 24;
  a.tied = false;
  return a;
}

inline Architecture small_llama(const Family& family, int64_t heads, int64_t key_heads, int64_t head_width,
                                int64_t width) {
  Architecture a = small_architecture(family, heads, key_heads, head_width, width);
  a.norm = Norm::rms;
  a.mlp = Mlp::gated;
  a.activation = Activation::silu;
  a.rotary = Rotary{.width = head_width};
  a.qkv_bias = a.out_bias = a.mlp_bias = false;
  return a;
}

inline std::vector<FamilyCase> family_cases() {
  Architecture j = small_architecture(gptj(), 3, 3, 8, 24);
  j.residual = Residual::parallel;
  j.rotary = Rotary{.width = 6, .pairs = RotaryPairs::interleaved};
  Architecture neox = small_architecture(gpt_neox(), 3, 3, 7, 21);
  neox.residual = Residual::parallel;
  neox.rotary = Rotary{.width = 2, .base = 500};
  neox.activation = Activation::gelu;
  Architecture sequential = neox;
  sequential.residual = Residual::sequential;
  sequential.qkv_bias = sequential.out_bias = false;
  sequential.tied = true;
  Architecture llama3 = small_llama(llama(), 6, 2, 8, 23);
  llama3.rotary->scaling = RotaryScaling::llama3;
  llama3.rotary->base = 100;
  llama3.rotary->factor = 8;
  llama3.rotary->original_positions = 16;
  Architecture biased = small_llama(llama(), 2, 1, 6, 19);
  biased.qkv_bias = biased.out_bias = biased.mlp_bias = true;
  biased.rotary->scaling = RotaryScaling::yarn;
  biased.rotary->base = 50;
  biased.rotary->factor = 4;
  biased.rotary->original_positions = 6;
  biased.rotary->attention_factor = 1.25;
  // A random model 17 wide is badly conditioned here: half a unit in the last place of its parameters moves its logits
  // by more than the tolerance.
  Architecture windowed = small_llama(mistral(), 3, 3, 6, 15);
  windowed.window = 5;
  Architecture two = small_llama(qwen2(), 4, 2, 6, 22);
  two.qkv_bias = two.tied = true;
  Architecture three = small_llama(qwen3(), 6, 2, 6, 29);
  three.head_norm = HeadNorm::rms;
  three.tied = true;
  return {{"gptj", j},        {"gpt_neox", neox},       {"gpt_neox_sequential", sequential},
          {"llama3", llama3}, {"llama_biased", biased}, {"mistral_window", windowed},
          {"qwen2", two},     {"qwen3", three}};
}

}  // namespace loci::test
