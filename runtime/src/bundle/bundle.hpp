// A bundle with a selected variant: typed, checked, immutable. Only this folder parses manifests.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bundle/catalog/catalog.hpp"
#include "bundle/policy.hpp"
#include "bundle/word_pieces.hpp"
#include "files/folder.hpp"

namespace rexit::core {

struct Model {
  std::size_t layers, hidden_size, kv_heads, head_dim, vocab_size, max_positions;
  std::size_t causal;  // 0: an encoder, whose candidates have no prefix
};

enum class Element { float32, float16 };
constexpr std::size_t bytes_of(Element element) noexcept { return element == Element::float32 ? 4 : 2; }

// A graph: layers [begin, end) and a head. The strings after the digests are tensor names in the graph.
struct Segment {
  std::string graph;                         // path in the bundle
  std::string weights;                       // likewise; empty: none
  std::string graph_sha256, weights_sha256;  // as recorded in variant.json; empty: no weights
  std::size_t begin, end;
  Element hidden_dtype, cache_dtype;
  bool first, last;
  std::string source;  // `tokens` in the first segment, `hidden` in the others
  std::string positions, groups, rows;
  std::vector<std::string> past_keys, past_values;
  std::string hidden;  // empty in the last segment
  std::string logits;
  std::vector<std::string> new_keys, new_values;

  std::size_t layers() const noexcept { return end - begin; }
};

struct Variant {
  std::string name, target, backend, precision;
  std::string folder;  // path in the bundle
  std::string sha256;  // of variant.json: identifies the variant
  std::size_t opset;   // of its graphs
  std::size_t max_tokens, max_positions;
  std::optional<float> tolerance;  // of golden samples' log-odds; nullopt: not recorded
  std::string golden;              // path in the bundle of the golden samples for the active catalog
  bool past_padding;               // the graphs mask rows of the past at and behind positions[0]
  std::size_t graph_bytes;         // graphs and their weights
  std::vector<Segment> segments;

  // How far log-odds of the same candidate may be from each other on one machine, with other candidates in the pass; relative
  // above 1. In float32 only the order of ONNX Runtime's sums differs: 8e-6 after 30 layers. In a lower precision another last
  // bit may round to another number and change all later layers, as on another processor: the recorded tolerance. 0.01 at least.
  float rounding() const noexcept;
};

// The conditions a policy was calibrated under, and those a bundle runs under. A policy from elsewhere makes the same decisions
// but may save less time. An empty string or 0: unknown, or irrelevant on that device.
struct Conditions {
  std::string device;
  std::int32_t threads = 0;
  std::string architecture;        // as in `uname -m`
  std::string onnxruntime, rexit;  // versions
  std::size_t slate = 0;           // largest slate in calibration; compared with requests, not at open
};

// The variants' names in manifest.json, at least one. Reads no other file.
std::vector<std::string> variant_names(const Folder& bundle);

class Bundle {
 public:
  // Checks structure, sizes, variant.json's digest, the recorded digests by which files refer to each other, and the types and
  // shapes of all tables. Rows are checked when they are read. `variant` null: the first with a policy,
  // or else the first.
  Bundle(const std::string& path, const char* variant);

  const Folder& folder() const noexcept { return folder_; }
  const std::string& path() const noexcept { return folder_.path(); }
  std::string where(const std::string& path) const { return folder_.where(path); }                   // for messages
  std::string where_variant(const char* file) const { return where(variant_.folder + "/" + file); }  // likewise
  const Model& model() const noexcept { return model_; }
  const Variant& variant() const noexcept { return variant_; }
  const Policy& policy() const noexcept { return policy_; }
  bool calibrated() const noexcept { return calibrated_; }
  const Conditions& calibrated_on() const noexcept { return calibrated_on_; }  // the policy's conditions
  bool has_catalog() const noexcept { return catalog_ != nullptr; }
  const Catalog& catalog() const noexcept { return *catalog_; }  // only if has_catalog()
  // Without a catalog: empty, with the lengths and numbers that the manifest gives.
  const Program& program() const noexcept { return catalog_ != nullptr ? catalog_->program : tokens_only_; }
  // Token ids of a text input are below this: its tokens are the tokenizer's, which may have fewer than the model.
  std::size_t text_vocabulary() const noexcept { return program().vocabulary; }
  // Token ids of prompts are below this.
  std::size_t vocabulary() const noexcept { return model_.vocab_size; }
  const std::string& policy_sha256() const noexcept { return policy_sha256_; }   // empty: no policy
  const WordPieces* word_pieces() const noexcept { return word_pieces_.get(); }  // null: texts are for a tokenizer elsewhere
  std::size_t table_bytes() const noexcept {
    return (catalog_ != nullptr ? catalog_->bytes() : 0) + (word_pieces_ != nullptr ? word_pieces_->bytes() : 0);
  }
  // Throws REXIT_MISMATCH if a table was modified since it was opened: earlier checks may no longer hold.
  void check_unchanged() const {
    if (catalog_ != nullptr) catalog_->check_unchanged();
    if (word_pieces_ != nullptr) word_pieces_->check_unchanged();
  }
  // Whether the manifest or policy there has changed since this was opened.
  bool changed() const;
  // Exit zero is an exit before the first segment. Its graph reads the program's numbers.
  bool has_zero() const noexcept { return has_zero_; }
  std::string zero() const;  // path in the bundle of that graph
  std::size_t segments() const noexcept { return variant_.segments.size(); }
  std::size_t exits() const noexcept { return exit_of(segments()); }
  std::size_t exit_of(std::size_t segment) const noexcept { return segment + (has_zero_ ? 1 : 0); }
  std::size_t depth(std::size_t exit) const noexcept { return exit < exit_of(0) ? 0 : variant_.segments[exit - exit_of(0)].end; }
  // The graph behind an exit, for messages.
  std::string where_exit(std::size_t exit) const;
  // Whether a request must bring scores.
  bool reads_scores() const noexcept { return has_zero_ && !program().scores.empty(); }

 private:
  Folder folder_;
  Model model_{};
  Variant variant_;
  Policy policy_;
  bool has_zero_ = false, calibrated_ = false;
  Conditions calibrated_on_;
  std::unique_ptr<const Catalog> catalog_;  // null: the bundle has none
  Program tokens_only_;
  std::unique_ptr<const WordPieces> word_pieces_;
  std::string manifest_sha256_, policy_sha256_;  // empty: no such file
};

// Checks all that opening checks, every row of the catalog, and every digest in manifest.json, variant.json and engine.json.
// `variant` null: all variants. Throws REXIT_CORRUPT for the first modified file, and what Bundle throws.
void verify_bundle(const std::string& path, const char* variant);

}  // namespace rexit::core
