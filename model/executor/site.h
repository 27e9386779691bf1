#pragma once

#include <cstdint>

#include "model/architecture.h"

namespace loci {

/// A named place in the forward pass, in the order in which a block comes to them; all but `embed` have a layer.
enum class Site {
  embed,       ///< token embedding, before a position embedding is added (no layer) [d]
  attn_in,     ///< input of the attention: the normalised residual stream [d]
  qkv,         ///< queries, keys and values of all heads, side by side, as projected: before heads are normalised and
               ///< turned [Architecture::qkv_width()]
  attn_heads,  ///< outputs of the heads side by side: the input of the attention's output projection
               ///< [heads * head width]
  attn_out,    ///< output of the attention module, before it is added to the residual stream [d]
  mlp_in,      ///< input of the MLP: the normalised residual stream [d]
  mlp_pre,     ///< the MLP's hidden layer before its activation function; of a gated MLP the gate [ff]
  mlp_key,     ///< input of the MLP's down projection [ff]
  mlp_out,     ///< output of the MLP, before it is added to the residual stream [d]
  resid,       ///< block output; layer -1: input of block 0 [d]
};
inline constexpr int64_t kSites = 10;

/// Columns of a site.
int64_t site_width(const Architecture& config, Site site);

/// A site of one block.
struct BlockSite {
  Site site;
  int64_t layer;
};

}  // namespace loci
