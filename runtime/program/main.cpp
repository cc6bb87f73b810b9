// rexit-run: scores with a bundle on machines without Python. It uses only the public rexit.hpp.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "commands.hpp"
#include "failure.hpp"

namespace rexit::program {

int exit_code(rexit_status status) noexcept {
  if (status == REXIT_DEADLINE) return too_late;
  if (status / 100 == 1 || status == REXIT_TOO_LONG) return bad_input;
  if (status / 100 == 2) return bad_bundle;
  if (status / 100 == 3) return bad_backend;
  return other_failure;
}

namespace {

constexpr char exit_codes[] =
    R"(Exit codes: 0 done; 2 bad input; 4 the bundle is missing, damaged or of another version; 6 ONNX Runtime or the device is
missing or failed; 7 the deadline passed without an answer; 8 verify found a failure; 1 anything else. An error is one line
on stderr.)";

constexpr char bundle_help[] = "The bundle's folder, or a tar archive of it.";

void add_common(CLI::App& command, Common& common) {
  command.add_option("BUNDLE", common.bundle, bundle_help)->required();
  command.add_option("--variant", common.options.variant, "Which variant. Default: the first with a policy, or else the first.");
  command.add_flag("--json", common.json, "Print one JSON document instead of tables.");
}

void add_execution(CLI::App& command, BundleOptions& options) {
  command.add_option("--threads", options.threads, "Threads of the backend; 0: one per core.")->check(CLI::Range(0, 1024));
  command.add_option("--device", options.device,
                     "cpu, cuda or tensorrt. Default: the variant's own. The CPU runs every variant.");
  command.add_option("--library", options.onnxruntime_library,
                     "libonnxruntime.so. Default: $REXIT_ONNXRUNTIME_LIBRARY, else the system's.");
  command.add_option("--provider", options.provider,
                     "An execution provider of ONNX Runtime by its name, in place of the device's: OpenVINO, XNNPACK, QNN.");
  const auto add_provider_options = [&options](const std::vector<std::string>& settings) {
    for (const std::string& setting : settings) {
      const std::size_t equals = setting.find('=');
      if (equals == 0 || equals == std::string::npos)
        throw CLI::ValidationError("--provider-option", "is `" + setting + "`, expected KEY=VALUE");
      options.provider_options.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
    }
  };
  command
      .add_option_function<std::vector<std::string>>("--provider-option", add_provider_options,
                                                     "An option of the provider, as KEY=VALUE; once for each.")
      ->allow_extra_args(false);
  command.add_flag("--own-threads", options.own_threads,
                   "A thread pool of this size for every segment, which sleeps between runs.");
  const auto set_spinning = [&options](const bool& spins) { options.spinning = spins ? REXIT_SPINNING_ON : REXIT_SPINNING_OFF; };
  command.add_option_function<bool>(
      "--spinning", set_spinning,
      "Whether threads wait for work by spinning: true or false. Default: true, but with --own-threads.");
}

template <class Options>
void add_command(CLI::App& app, const char* name, const char* summary, const char* footer, Options& options,
                 int (*run)(const Options&), int& code, void (*add_options)(CLI::App&, Options&)) {
  CLI::App* command = app.add_subcommand(name, summary);
  add_options(*command, options);
  command->footer(footer);
  command->callback([&options, &code, run] { code = run(options); });
}

void warn(void*, rexit_log_level, const char* line) { std::fprintf(stderr, "rexit-run: warning: %s\n", line); }

int report(const std::string& line, int code) {
  std::fprintf(stderr, "rexit-run: error: %s\n", line.c_str());
  return code;
}

constexpr char verify_help[] =
    R"(Checks the digests of all files, then, for each variant, that golden samples give the same prompts and the same
log-odds within the tolerance recorded at export. If a variant's backend is missing on this machine, only its files
are checked, unless the variant or a device is named. Exits with 8 if anything fails.

  rexit-run verify bundle && systemctl restart recommender)";

constexpr char score_help[] = R"(  rexit-run score bundle --user 196 --items 242,302,377

  rexit-run score bundle --user 99999 --recent 50:1,172:1,288:0 --items 181,210 --top-k 1

Ids that begin with - and are not numbers: --items=-a,-b.)";

constexpr char pipe_help[] =
    R"(A request has `user` and `items`, and may have `id`, `recent`, `as_of`, `inputs`, `top_k`, `force_exit` and
`deadline_ms`, which counts from the moment its line was read; or it has `prefix` and `candidates`, a prompt as token
ids. Its answer is what `score --json` prints, with its `id`, or `error` with `status` and `message`. An invalid line is
answered by an error, too. With several sessions answers come in the order they are ready; requests of a user go to one
session, which keeps that user's prefix. The end of stdin, SIGTERM and SIGINT end the program, with 0, after the
requests that were read.

  echo '{"id": 1, "user": 196, "items": [242, 302], "recent": [50, [172, false]]}' | rexit-run pipe bundle)";

int run(int argc, char** argv) {
  ScoreOptions score_options;
  Common verify_options;
  PipeOptions pipe_options;
  int code = 0;
  CLI::App app("Score slates with an early-exit recommender, without Python: verify, score, pipe.", "rexit-run");
  app.set_version_flag("--version", std::string("rexit-run ") + rexit_version());
  app.require_subcommand(1);
  app.footer(std::string("rexit-run COMMAND --help shows a command's options, with an example.\n\n") + exit_codes);
  add_command<Common>(app, "verify", "Check that a bundle is whole and computes here what it computed where it was exported.",
                      verify_help, verify_options, verify, code, [](CLI::App& command, Common& options) {
                        add_common(command, options);
                        add_execution(command, options.options);
                      });
  add_command<ScoreOptions>(
      app, "score", "Score candidates for one user.", score_help, score_options, score, code,
      [](CLI::App& command, ScoreOptions& options) {
        add_common(command, options);
        command.add_option("--user", options.user, "User id. A user who is not in the catalog is placed by --recent.")
            ->required();
        command.add_option("--items", options.items, "Item ids, separated by commas; quotes around an id keep its commas.")
            ->required();
        command.add_option(
            "--recent", options.recent,
            "Interactions newer than the catalog's, oldest first: ITEM or ITEM:1 for liked, ITEM:0 for not liked.");
        command.add_option("--as-of", options.as_of, "Use only interactions before this time. Default: all.");
        command
            .add_option("--input", options.inputs,
                        "The value of {input.NAME}, as NAME=VALUE; once for each name. This program has no tokenizer: a text is "
                        "its token ids, as NAME=[1,2,3].")
            ->allow_extra_args(false);
        command.add_option("--top-k", options.top_k, "Only the k most probable, best first. 0: all, in the order given.");
        command.add_option("--deadline-ms", options.deadline_ms, "Answer with what is known when this time has passed.");
        command.add_option("--force-exit", options.force_exit, "Every candidate stops at this exit, counted from 0.");
        add_execution(command, options.options);
      });
  add_command<PipeOptions>(app, "pipe", "Answer requests: a line of JSON on stdin, a line of JSON on stdout.", pipe_help,
                           pipe_options, pipe, code, [](CLI::App& command, PipeOptions& options) {
                             command.add_option("BUNDLE", options.bundle, bundle_help)->required();
                             command.add_option("--variant", options.options.variant,
                                                "Which variant. Default: the first with a policy, or else the first.");
                             command.add_option("--sessions", options.sessions, "Requests scored at once.")
                                 ->check(CLI::Range(1, 64))
                                 ->capture_default_str();
                             command.add_option("--cache-mib", options.cache_mib, "MiB of cached prefixes per session.")
                                 ->check(CLI::Range(1, 1 << 20))
                                 ->capture_default_str();
                             add_execution(command, options.options);
                           });
  rexit_set_log(warn, nullptr, REXIT_LOG_WARNING);
  try {
    app.parse(argc, argv);
    return code;
  } catch (const CLI::Success& help) {  // --help, --version
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    return report(std::string(error.what()) + "; see rexit-run --help", bad_input);
  } catch (const Failure& failure) {
    return report(failure.what(), failure.code());
  } catch (const Error& error) {
    return report(error.what(), exit_code(error.status()));
  } catch (const std::exception& error) {
    return report(error.what(), other_failure);
  }
}

}  // namespace

}  // namespace rexit::program

int main(int argc, char** argv) { return rexit::program::run(argc, argv); }
