#include "bundle/engines.hpp"

#include <algorithm>

#include "base/status.hpp"
#include "files/file_list.hpp"
#include "files/json.hpp"

namespace rexit::core {
namespace {

constexpr std::size_t max_length = 1 << 24, max_shown = 8, max_profiles = 8;

std::string abbreviate(const std::string& text) { return text.size() <= 12 ? text : text.substr(0, 12) + "…"; }

// Throws REXIT_MISMATCH unless `value` is what this variant on this machine requires.
void check_is(const Json& value, const std::string& expected, const std::string& reason, const Bundle& bundle) {
  if (value.string() != expected)
    fail(REXIT_MISMATCH, value.where(), ": is ", abbreviate(value.string()), ", ", reason, " ", abbreviate(expected), "; run `",
         compile_command(bundle), "`");
}

Range read_range(const Json& json) {
  const std::vector<Json> numbers = json.elements();
  if (numbers.size() != 3) fail(REXIT_CORRUPT, json.where(), ": has ", numbers.size(), " numbers, expected 3 (min, opt, max)");
  const std::size_t min = numbers[0].size(1, max_length), opt = numbers[1].size(min, max_length);
  return {min, numbers[2].size(opt, max_length)};
}

std::vector<OptimizationProfile> read_profiles(const Json& json) {
  const std::vector<Json> list = json.elements();
  if (list.empty() || list.size() > max_profiles)
    fail(REXIT_CORRUPT, json.where(), ": has ", list.size(), " profiles, expected 1 to ", max_profiles);
  std::vector<OptimizationProfile> profiles;
  for (const Json& profile : list)
    profiles.push_back({read_range(profile.at("tokens")), read_range(profile.at("prefix")), read_range(profile.at("rows"))});
  return profiles;
}

std::string path_of_listed_file(const Json& name, const std::string& folder, const FileList& files, const Bundle& bundle) {
  check_relative_path(name.string(), name);
  if (files.count(name.string()) == 0)
    fail(REXIT_CORRUPT, bundle.where(folder), "/engine.json files: does not list `", name.string(), "`");
  return folder + "/" + name.string();
}

Plan read_plan(const Json& json, const std::string& folder, const FileList& files, const Segment& segment, const Bundle& bundle) {
  check_is(json.at("graph_sha256"), segment.graph_sha256, "the engine is stale: variant.json has", bundle);
  if (!segment.weights_sha256.empty())
    check_is(json.at("weights_sha256"), segment.weights_sha256, "the engine is stale: variant.json has", bundle);
  Plan plan{path_of_listed_file(json.at("plan"), folder, files, bundle), "", read_profiles(json.at("profiles"))};
  plan.path = bundle.where(plan.file);
  return plan;
}

// Sorted names of the subfolders that look like a key.
std::vector<std::string> keys_in(const Folder& bundle, const std::string& folder) {
  std::vector<std::string> names = bundle.folders(folder);
  const auto is_no_key = [](const std::string& name) {
    const bool plain = name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-+") == std::string::npos;
    return !plain || name.size() > 64 || name.compare(0, 2, "sm") != 0;
  };
  names.erase(std::remove_if(names.begin(), names.end(), is_no_key), names.end());
  return names;
}

// Treats "10.3.0.30" as 10.3.0: the compiler may report its build number, the runtime library does not.
bool same_version(const std::string& builder, const std::string& here) {
  return builder.compare(0, here.size(), here) == 0 && (builder.size() == here.size() || builder[here.size()] == '.');
}

std::string listing(const std::vector<std::string>& names) {
  if (names.empty()) return "it has none";
  std::string text = "it has " + names.front();
  for (std::size_t i = 1; i < std::min(names.size(), max_shown); ++i) text += ", " + names[i];
  return names.size() > max_shown ? text + ", …" : text;
}

}  // namespace

std::string Accelerator::key() const {
  std::string digits = compute_capability;
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  return "sm" + digits + "-trt" + tensorrt_version;
}

std::string compile_command(const Bundle& bundle) {
  return "rexit compile " + bundle.path() + " --variant " + bundle.variant().name;
}

std::vector<std::string> engine_folders(const Bundle& bundle) {
  const std::string engines = bundle.variant().folder + "/engines";
  std::vector<std::string> folders;
  for (const std::string& key : keys_in(bundle.folder(), engines)) folders.push_back(engines + "/" + key);
  return folders;
}

std::vector<Plan> find_engines(const Bundle& bundle, const Accelerator& here) {
  const Variant& variant = bundle.variant();
  if (!variant.past_padding)
    fail(REXIT_UNSUPPORTED, bundle.where_variant("variant.json"),
         ": the graphs do not mask past_padding, which engines need; export again");
  const std::string engines = variant.folder + "/engines";
  const Folder& source = bundle.folder();
  const std::vector<std::string> keys = keys_in(source, engines);
  std::string folder = engines + "/" + here.key();
  const auto is_there = [&] { return source.has(folder) || source.has(folder + "/engine.json"); };
  for (std::size_t i = 0; i < keys.size() && !is_there(); ++i)
    if (same_version(keys[i], here.key())) folder = engines + "/" + keys[i];
  if (!is_there())
    fail(REXIT_NOT_FOUND, "variant `", variant.name, "` has no engine for compute capability ", here.compute_capability,
         " and TensorRT ", here.tensorrt_version, " (", here.key(), "), ", listing(keys), "; run `", compile_command(bundle),
         "`");
  source.check_folder(folder);

  const JsonDocument document = read_json(source.open(folder + "/engine.json"), "rexit compile");
  const Json root = document.root(), builder = root.at("builder");
  check_is(root.at("variant"), variant.name, "the variant is", bundle);
  check_is(builder.at("name"), "tensorrt", "engines must be built by", bundle);
  if (!same_version(builder.at("version").string(), here.tensorrt_version))
    check_is(builder.at("version"), here.tensorrt_version, "this TensorRT is", bundle);
  check_is(root.at("gpu").at("compute_capability"), here.compute_capability, "this GPU's is", bundle);

  const FileList files = read_file_sizes(root.at("files"));
  const Json list = root.at("segments");
  const std::vector<Json> segments = list.elements();
  if (segments.size() != variant.segments.size())
    fail(REXIT_CORRUPT, list.where(), ": has ", segments.size(), " segments, the variant has ", variant.segments.size());
  std::vector<Plan> plans;
  for (std::size_t k = 0; k < segments.size(); ++k)
    plans.push_back(read_plan(segments[k], folder, files, variant.segments[k], bundle));
  check_files(source, folder + "/", files, {});
  return plans;
}

}  // namespace rexit::core
