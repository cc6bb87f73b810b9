#include "bundle/bundle.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "base/checked.hpp"
#include "base/status.hpp"
#include "files/file_list.hpp"
#include "files/json.hpp"
#include "files/sha256.hpp"

namespace rexit::core {
namespace {

constexpr char manifest_name[] = "manifest.json", zero_name[] = "zero.onnx", word_pieces_name[] = "word_pieces.safetensors";

// Far above any real model; products of some of them still exceed 64 bits.
constexpr std::size_t max_layers = 1024, max_width = 1 << 20, max_length = 1 << 24, max_vocabulary = 1 << 30, max_opset = 1000;

Model read_model(const Json& json) {
  const Model model{json.at("layers").size(1, max_layers),
                    json.at("hidden_size").size(1, max_width),
                    json.at("kv_heads").size(1, max_width),
                    json.at("head_dim").size(1, max_width),
                    json.at("vocab_size").size(1, max_vocabulary),
                    json.at("max_positions").size(1, max_length),
                    !json.has("causal") || json.at("causal").boolean() ? 1U : 0U};
  // No prompt is longer than max_positions, so the code that runs prompts multiplies these without another check.
  const std::size_t positions = model.max_positions, element = bytes_of(Element::float32);
  if (!checked_multiply({2, model.layers, model.kv_heads, model.head_dim, positions, element}))
    fail(REXIT_CORRUPT, json.where(), ": keys and values for max_positions ", positions, " x layers ", model.layers,
         " x kv_heads ", model.kv_heads, " x head_dim ", model.head_dim, " exceed the address space");
  return model;
}

std::vector<std::size_t> read_exits(const Json& json, const Model& model) {
  std::vector<std::size_t> exits;
  for (const Json& exit : json.elements()) exits.push_back(exit.size(exits.empty() ? 0 : exits.back() + 1, model.layers));
  if (exits.empty() || exits.back() != model.layers)
    fail(REXIT_CORRUPT, json.where(), ": the last exit must equal the model's number of layers, ", model.layers);
  return exits;
}

const FileEntry& file_entry(const FileList& files, const std::string& name, const std::string& where) {
  const auto entry = files.find(name);
  if (entry == files.end()) fail(REXIT_CORRUPT, where, " files: does not list `", name, "`");
  return entry->second;
}

void check_digest_is(const Json& digest, const std::string& expected, const char* whose) {
  if (digest.string() != expected)
    fail(REXIT_MISMATCH, digest.where(), ": is ", digest.string().substr(0, 12), "…, expected ", whose, ", ",
         expected.substr(0, 12), "…");
}

Element read_element(const Json& json) {
  if (json.string() == "float32") return Element::float32;
  if (json.string() == "float16") return Element::float16;
  fail(REXIT_UNSUPPORTED, json.where(), ": dtype `", json.string(), "`, expected float32 or float16");
}

std::vector<std::string> layer_names(const Json& json, std::size_t layers) {
  std::vector<std::string> names = json.strings();
  if (names.size() != layers)
    fail(REXIT_CORRUPT, json.where(), ": has ", names.size(), " names, the segment has ", layers, " layers");
  return names;
}

// Of an output: nothing comes behind an encoder's tokens.
std::vector<std::string> new_layer_names(const Json& json, std::size_t layers, const Model& model) {
  if (model.causal != 0) return layer_names(json, layers);
  if (const std::size_t names = json.strings().size(); names != 0)
    fail(REXIT_CORRUPT, json.where(), ": has ", names, " names, expected none of an encoder's; export it again");
  return {};
}

// `where`: variant.json, for messages. `exits`: depths at which the segment may end.
Segment read_segment(const Json& json, const std::string& folder, const std::string& where, const FileList& files,
                     std::size_t begin, const std::vector<std::size_t>& exits, const Model& model) {
  Segment segment;
  const std::string graph = json.at("graph").string();
  check_relative_path(graph, json);
  segment.graph = folder + "/" + graph;
  segment.graph_sha256 = file_entry(files, graph, where).sha256;
  if (json.has("weights")) {
    const std::string weights = json.at("weights").string();
    segment.weights = folder + "/" + weights;
    segment.weights_sha256 = file_entry(files, weights, where).sha256;
  }

  const std::vector<Json> layers = json.at("layers").elements();
  if (layers.size() != 2) fail(REXIT_CORRUPT, json.where(), " layers: has ", layers.size(), " numbers, expected 2");
  segment.begin = layers[0].size(begin, begin);
  segment.end = layers[1].size(begin + 1, exits.back());
  if (!std::binary_search(exits.begin(), exits.end(), segment.end))
    fail(REXIT_CORRUPT, layers[1].where(), ": is ", segment.end, ", which is not one of the manifest's exits");
  segment.first = begin == 0;
  segment.last = segment.end == exits.back();
  segment.hidden_dtype = read_element(json.at("hidden_dtype"));
  segment.cache_dtype = read_element(json.at("cache_dtype"));

  const Json inputs = json.at("inputs"), outputs = json.at("outputs");
  segment.source = inputs.at(segment.first ? "tokens" : "hidden").string();
  segment.positions = inputs.at("positions").string();
  segment.groups = inputs.at("groups").string();
  segment.rows = inputs.at("rows").string();
  segment.past_keys = layer_names(inputs.at("past_keys"), segment.layers());
  segment.past_values = layer_names(inputs.at("past_values"), segment.layers());
  if (!segment.last) segment.hidden = outputs.at("hidden").string();
  segment.logits = outputs.at("logits").string();
  segment.new_keys = new_layer_names(outputs.at("new_keys"), segment.layers(), model);
  segment.new_values = new_layer_names(outputs.at("new_values"), segment.layers(), model);
  return segment;
}

Variant read_variant(const Json& json, const Folder& bundle, const std::string& folder, const std::vector<std::size_t>& exits,
                     const Model& model) {
  Variant variant;
  variant.folder = folder;
  variant.target = json.at("target").string();
  variant.backend = json.at("backend").string();
  variant.opset = json.at("opset").size(1, max_opset);
  variant.precision = json.at("precision").string();
  const Json limits = json.at("limits");
  variant.max_tokens = limits.at("max_tokens").size(1, max_length);
  variant.max_positions = limits.at("max_positions").size(1, model.max_positions);
  if (json.has("parity") && json.at("parity").has("tolerance"))
    variant.tolerance = json.at("parity").at("tolerance").finite_float();
  variant.past_padding = json.has("past_padding") && json.at("past_padding").boolean();

  const FileList files = read_file_sizes(json.at("files"));
  check_files(bundle, folder + "/", files, {});
  const Json list = json.at("segments");
  const std::vector<Json> segments = list.elements();
  std::set<std::string> file_names;
  std::size_t depth = 0;
  for (std::size_t k = 0; k < segments.size() && depth < exits.back(); ++k) {
    variant.segments.push_back(
        read_segment(segments[k], folder, bundle.where(folder + "/variant.json"), files, depth, exits, model));
    depth = variant.segments[k].end;
    file_names.insert(segments[k].at("graph").string());
    if (segments[k].has("weights")) file_names.insert(segments[k].at("weights").string());
    if (k != 0 && variant.segments[k].hidden_dtype != variant.segments[k - 1].hidden_dtype)
      fail(REXIT_CORRUPT, segments[k].where(), " hidden_dtype: differs from the previous segment's");
  }
  if (depth != exits.back() || segments.size() != variant.segments.size())
    fail(REXIT_CORRUPT, list.where(), ": has ", segments.size(), " segments, of which ", variant.segments.size(), " end after ",
         depth, " of ", exits.back(), " layers");
  variant.graph_bytes = 0;
  for (const std::string& name : file_names) variant.graph_bytes += files.at(name).bytes;
  return variant;
}

Conditions read_calibration_conditions(const Json& root) {
  Conditions conditions;
  if (!root.has("made_on")) return conditions;
  const Json json = root.at("made_on"), machine = json.at("machine");
  const auto text_or_empty = [&machine](const char* key) { return machine.has(key) ? machine.at(key).string() : std::string(); };
  conditions.device = json.at("device").string();
  conditions.threads = static_cast<std::int32_t>(json.at("threads").integer(1, INT32_MAX));
  conditions.architecture = text_or_empty("architecture");
  conditions.onnxruntime = text_or_empty("onnxruntime");
  conditions.rexit = text_or_empty("rexit");
  if (json.has("slate")) conditions.slate = json.at("slate").size(1, max_candidates);
  return conditions;
}

std::vector<std::string> names_of(const Json& variants) {
  const std::vector<std::string> names = variants.strings();
  if (names.empty()) fail(REXIT_CORRUPT, variants.where(), ": is empty, expected at least one name");
  for (const std::string& name : names) {
    check_relative_path(name, variants);
    if (name.find('/') != std::string::npos) fail(REXIT_CORRUPT, variants.where(), ": `", name, "` is not a plain name");
  }
  return names;
}

// The active catalog: the exported one, or its replacement by `rexit refresh`. Paths are relative to the bundle.
struct ActiveCatalog {
  ActiveCatalog(const Json& manifest, const FileList& files) {
    if (manifest.has("catalog")) {
      const Json catalog = manifest.at("catalog");
      folder = catalog.at("folder").string();
      check_relative_path(folder, catalog);
      if (folder.find('/') != std::string::npos) fail(REXIT_CORRUPT, catalog.where(), ": `", folder, "` is not a plain name");
      is_refreshed = true;
      exported_sha256 = catalog.at("exported_sha256").string();
    } else {
      exported_sha256 = file_entry(files, description(), manifest.where()).sha256;
    }
  }

  std::string description() const { return folder + "/catalog.json"; }
  std::string golden(const std::string& variant) const {
    return is_refreshed ? folder + "/golden/" + variant + ".safetensors" : "variants/" + variant + "/golden.safetensors";
  }

  std::string folder = "catalog";
  bool is_refreshed = false;
  std::string exported_sha256;  // of the catalog from the export, which the variants name
};

// What a bundle without a catalog knows of its requests: the scores that exit zero reads and, as hints, the longest prefix and
// candidate of its export.
Program read_tokens(const Json& tokens, std::size_t max_positions) {
  Program program;
  if (tokens.has("scores")) program.scores = tokens.at("scores").strings();
  for (const std::string& name : program.scores) {
    if (name.empty() || std::count(program.scores.begin(), program.scores.end(), name) != 1)
      fail(REXIT_CORRUPT, tokens.at("scores").where(), ": `", name, "` is empty or appears twice");
    program.numbers.push_back({NumberKind::score, 0, program.numbers.size()});
  }
  program.max_prefix_tokens = std::min(tokens.at("max_prefix_tokens").size(0, max_length), max_positions);
  program.max_candidate_tokens = std::min(tokens.at("max_candidate_tokens").size(1, max_length), max_positions);
  return program;
}

// Whether only a pair's document is cut, or the longer text first.
bool cuts_only_second(const Json& pair) {
  if (!pair.has("truncation")) return false;
  const Json truncation = pair.at("truncation");
  if (truncation.string() != "only_second" && truncation.string() != "longest_first")
    fail(REXIT_UNSUPPORTED, truncation.where(), ": is `", truncation.string(), "`, expected longest_first or only_second");
  return truncation.string() == "only_second";
}

// Empty if there is no such file.
std::string digest_of(const Folder& bundle, const std::string& path) {
  if (!bundle.has(path)) return {};
  const File file = bundle.open(path);
  return sha256(file.data(), file.size());
}

std::string select_variant(const std::vector<std::string>& names, const char* name, const Folder& bundle) {
  if (name == nullptr) {
    const auto calibrated = std::find_if(names.begin(), names.end(), [&bundle](const std::string& variant) {
      return bundle.has("variants/" + variant + "/policy.json");
    });
    return calibrated != names.end() ? *calibrated : names.front();
  }
  if (std::find(names.begin(), names.end(), name) != names.end()) return name;
  std::string list = names.front();
  for (std::size_t i = 1; i < names.size(); ++i) list += ", " + names[i];
  fail(REXIT_UNKNOWN_VARIANT, bundle.path(), ": no variant `", name, "`, expected one of: ", list);
}

}  // namespace

float Variant::rounding() const noexcept { return precision == "fp32" ? 1e-4f : std::max(0.01f, tolerance.value_or(0.0f)); }

std::vector<std::string> variant_names(const Folder& bundle) {
  return names_of(read_json(bundle.open(manifest_name), "rexit export").root().at("variants"));
}

Bundle::Bundle(const std::string& path, const char* variant_name) : folder_(path) {
  manifest_sha256_ = digest_of(folder_, manifest_name);  // before reading it, so that changed() notices a replacement in between
  const JsonDocument manifest_document = read_json(folder_.open(manifest_name), "rexit export");
  const Json manifest = manifest_document.root();
  model_ = read_model(manifest.at("model"));
  std::vector<std::size_t> depths = read_exits(manifest.at("exits"), model_);
  has_zero_ = depths.front() == 0;
  if (has_zero_) depths.erase(depths.begin());
  const FileList files = read_file_sizes(manifest.at("files"));
  const std::string name = select_variant(names_of(manifest.at("variants")), variant_name, folder_);
  const std::string folder = "variants/" + name, description = folder + "/variant.json", policy = folder + "/policy.json";
  const bool has_catalog = !manifest.has("tokens");
  if (!has_catalog && manifest.has("catalog"))
    fail(REXIT_CORRUPT, manifest.where(), ": has `tokens`, for a bundle without a catalog, and `catalog`");
  const std::optional<ActiveCatalog> catalog =
      has_catalog ? std::optional<ActiveCatalog>(std::in_place, manifest, files) : std::nullopt;
  check_files(folder_, "", files, {description, catalog ? catalog->description() : description});

  const File variant_file = folder_.open(description);
  check_digest(variant_file, files.at(description));  // a reload compares it to tell whether the segments are the same
  const JsonDocument variant_document = read_json(variant_file, "rexit export");
  const Json variant = variant_document.root();
  if (catalog)
    check_digest_is(variant.at("catalog_sha256"), catalog->exported_sha256, "the bundle's catalog's");
  else if (variant.has("catalog_sha256"))
    fail(REXIT_MISMATCH, variant.where(), ": was made for a catalog, the bundle has none");
  check_digest_is(variant.at("checkpoint_sha256"), manifest.at("model").at("checkpoint_sha256").string(), "the bundle's");
  variant_ = read_variant(variant, folder_, folder, depths, model_);
  variant_.name = name;
  variant_.sha256 = files.at(description).sha256;
  variant_.golden = catalog ? catalog->golden(name) : folder + "/golden.safetensors";

  policy_.exits.resize(exits());
  if (folder_.has(policy)) {
    const File file = folder_.open(policy);
    policy_sha256_ = sha256(file.data(), file.size());
    const JsonDocument document = read_json(file, "rexit calibrate");
    check_digest_is(document.root().at("variant_sha256"), variant_.sha256, "this variant's (calibrate it again)");
    policy_ = read_policy(document.root(), exits());
    calibrated_on_ = read_calibration_conditions(document.root());
    calibrated_ = true;
  }
  if (catalog)
    catalog_ = std::make_unique<const Catalog>(folder_, catalog->folder, model_.vocab_size, variant_.max_positions);
  else
    tokens_only_ = read_tokens(manifest.at("tokens"), variant_.max_positions);
  if (!catalog && files.count(word_pieces_name) != 0) {
    const Json pair = manifest.at("reranker").at("pair");
    word_pieces_ = std::make_unique<const WordPieces>(folder_.open(word_pieces_name),
                                                      std::min(pair.at("tokens").size(1, max_length), variant_.max_positions),
                                                      cuts_only_second(pair));
  }

  if (has_zero_ && program().numbers.empty())
    fail(REXIT_CORRUPT, manifest.at("exits").where(), ": begin with 0, but ",
         catalog ? "the catalog's prompt has no `numbers`" : "`tokens` has no `scores`");
  if (has_zero_ && !catalog) file_entry(files, zero_name, folder_.where(manifest_name));  // it is listed
}

std::string Bundle::where_exit(std::size_t exit) const {
  if (exit >= exit_of(0)) return variant_.segments[exit - exit_of(0)].graph;
  return zero();
}

std::string Bundle::zero() const { return has_catalog() ? catalog_->zero : zero_name; }

bool Bundle::changed() const {
  return digest_of(folder_, manifest_name) != manifest_sha256_ ||
         digest_of(folder_, variant_.folder + "/policy.json") != policy_sha256_;
}

}  // namespace rexit::core
