// rexit-run: checks and scores with a bundle on machines without Python. It uses only the public rexit.hpp.
#include <charconv>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "commands.hpp"

namespace rexit::program {
namespace {

int exit_code(rexit_status status) noexcept {
  if (status / 100 == 1 || status == REXIT_TOO_LONG) return bad_input;
  if (status / 100 == 2) return bad_bundle;
  if (status / 100 == 3) return bad_backend;
  return other_failure;
}

struct Option {
  const char* name;
  const char* value;  // its name in the help; null: a flag
  const char* help;
  std::function<void(const std::string&)> set;
};

template <class Number>
auto to_number(const char* name, Number& target, Number low, Number high) {
  return [name, &target, low, high](const std::string& text) {
    Number number{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size() || number < low || number > high)
      throw Failure(std::string(name) + " is `" + text + "`, expected an integer from " + std::to_string(low) + " to " +
                    std::to_string(high));
    target = number;
  };
}

std::vector<Option> execution_options(BundleOptions& options) {
  const auto to_text = [](std::string& target) { return [&target](const std::string& text) { target = text; }; };
  const auto add_provider_option = [&options](const std::string& setting) {
    const std::size_t equals = setting.find('=');
    if (equals == 0 || equals == std::string::npos) throw Failure("--provider-option is `" + setting + "`, expected KEY=VALUE");
    options.provider_options.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
  };
  return {
      {"--variant", "NAME", "Default: the first with a policy, or else the first.", to_text(options.variant)},
      {"--threads", "N", "Threads of the backend; 0, the default: one per core.",
       to_number<std::int32_t>("--threads", options.threads, 0, 1024)},
      {"--device", "NAME", "cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant.",
       to_text(options.device)},
      {"--library", "FILE", "libonnxruntime.so. Default: $REXIT_ONNXRUNTIME_LIBRARY, else the system's.",
       to_text(options.onnxruntime_library)},
      {"--provider", "NAME", "An execution provider of ONNX Runtime in place of the device's: OpenVINO, XNNPACK, QNN.",
       to_text(options.provider)},
      {"--provider-option", "KEY=VALUE", "An option of the provider; once for each.", add_provider_option},
  };
}

struct Command {
  const char *name, *summary, *details;
  int (*run)(const Options&);
};

constexpr Command commands[] = {
    {"verify", "Check that a bundle is whole and computes here what it computed where it was exported.",
     R"(Checks the digests of all files, then, for each variant, that golden samples give the same prompts and the same
log-odds within the tolerance recorded at export, and that candidates stop where the policy says. If a variant's
backend is missing on this machine, only its files are checked, unless the variant or a device is named. Exits with 8
if anything fails.

  rexit-run verify bundle && systemctl restart recommender)",
     verify},
    {"pipe", "Answer requests: a line of JSON on stdin, a line of JSON on stdout.",
     R"(A request has `user` and `items` or `retrieve`; or `query` and `documents`, if the bundle takes texts; or
`prefix` and `candidates`, a prompt as token ids. It may have `id`, `recent`, `as_of`, `inputs`, `scores`, `top_k`,
`floor`, `force_exit` and `deadline_ms`, which counts from the moment its line was read. Its answer has its `id`, and
`scores` or `error` with `status` and `message`. An invalid line is answered by an error, too. With several sessions
answers come in the order they are ready; requests of a user go to one session, which keeps that user's prefix. The end
of stdin, SIGTERM and SIGINT end the program, with 0, after the requests that were read.

  echo '{"id": 1, "user": 196, "items": [242, 302], "recent": [50, [172, false]]}' | rexit-run pipe bundle)",
     pipe}};

constexpr char exit_codes[] =
    R"(Exit codes: 0 done; 2 bad input; 4 the bundle is missing, damaged or of another version; 6 ONNX Runtime or the device is
missing or failed; 8 verify found a failure; 1 anything else. An error is one line on stderr.)";

std::vector<Option> options_of(const Command& command, Options& options) {
  std::vector<Option> all = execution_options(options.execution);
  if (command.run == verify) {
    all.push_back({"--json", nullptr, "Print one JSON document instead of a table.",
                   [&options](const std::string&) { options.json = true; }});
  } else {
    all.push_back({"--sessions", "N", "Requests scored at once. Default: 1.",
                   to_number<std::size_t>("--sessions", options.sessions, 1, 64)});
    all.push_back({"--cache-mib", "N", "MiB of cached prefixes per session. Default: 32.",
                   to_number<std::size_t>("--cache-mib", options.cache_mib, 1, std::size_t{1} << 20)});
  }
  return all;
}

void print_help(const Command& command, const std::vector<Option>& options) {
  std::printf("%s\n\nrexit-run %s BUNDLE [OPTION]...\n\n", command.summary, command.name);
  for (const Option& option : options) {
    const std::string name = std::string(option.name) + (option.value != nullptr ? std::string(" ") + option.value : "");
    std::printf("  %-30s%s\n", name.c_str(), option.help);
  }
  std::printf("\n%s\n", command.details);
}

// `arguments`: those after the command's name. Returns the exit code.
int run_command(const Command& command, const std::vector<std::string>& arguments) {
  Options options;
  const std::vector<Option> known = options_of(command, options);
  for (std::size_t n = 0; n < arguments.size(); ++n) {
    const std::string& argument = arguments[n];
    if (argument == "--help" || argument == "-h") return print_help(command, known), 0;
    if (argument.empty() || argument[0] != '-') {
      if (!options.bundle.empty()) throw Failure("`" + argument + "` is one argument too many, expected one BUNDLE");
      options.bundle = argument;
      continue;
    }
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const Option* option = nullptr;
    for (const Option& candidate : known)
      if (name == candidate.name) option = &candidate;
    if (option == nullptr) throw Failure("there is no option `" + name + "`");
    if (option->value == nullptr) {
      if (equals != std::string::npos) throw Failure(name + " takes no value");
      option->set("");
    } else if (equals != std::string::npos) {
      option->set(argument.substr(equals + 1));
    } else if (++n < arguments.size()) {
      option->set(arguments[n]);
    } else {
      throw Failure(name + " has no value, expected " + option->value);
    }
  }
  if (options.bundle.empty()) throw Failure("BUNDLE is missing");
  return command.run(options);
}

int run(const std::vector<std::string>& arguments) {
  const std::string name = arguments.empty() ? "" : arguments[0];
  if (name == "--version") return std::printf("rexit-run %s\n", rexit_version()), 0;
  if (name == "--help" || name == "-h") {
    std::puts("Check bundles and score slates with an early-exit recommender, without Python.\n");
    for (const Command& command : commands) std::printf("  rexit-run %-8s%s\n", command.name, command.summary);
    std::printf("\nrexit-run COMMAND --help shows a command's options, with an example.\n\n%s\n", exit_codes);
    return 0;
  }
  for (const Command& command : commands)
    if (name == command.name) return run_command(command, {arguments.begin() + 1, arguments.end()});
  throw Failure(name.empty() ? "no command, expected verify or pipe"
                             : "there is no command `" + name + "`, expected verify or pipe");
}

void warn(void*, rexit_log_level, const char* line) { std::fprintf(stderr, "rexit-run: warning: %s\n", line); }

int report(const char* line, int code, const char* advice = "") {
  std::fprintf(stderr, "rexit-run: error: %s%s\n", line, advice);
  return code;
}

}  // namespace
}  // namespace rexit::program

int main(int argc, char** argv) {
  using namespace rexit::program;
  rexit_set_log(warn, nullptr, REXIT_LOG_WARNING);
  try {
    const int code = run({argv + 1, argv + argc});
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) throw Failure("stdout: cannot be written", other_failure);
    return code;
  } catch (const Failure& failure) {
    return report(failure.what(), failure.code(), failure.code() == bad_input ? "; see rexit-run --help" : "");
  } catch (const rexit::Error& error) {
    return report(error.what(), exit_code(error.status()));
  } catch (const std::exception& error) {
    return report(error.what(), other_failure);
  }
}
