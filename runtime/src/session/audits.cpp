#include "session/audits.hpp"

#include <algorithm>
#include <random>

namespace rexit::core {
namespace {

std::uint64_t system_seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) ^ device();
}

}  // namespace

// SplitMix64 (Steele, Lea, Flood 2014), whose state after n steps is the seed plus n times a constant.
bool is_drawn(std::uint64_t seed, std::uint64_t number, double share) noexcept {
  std::uint64_t bits = seed + (number + 1) * 0x9e3779b97f4a7c15;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111eb;
  bits ^= bits >> 31;
  constexpr double unit = 1.0 / (std::uint64_t{1} << 53);
  return static_cast<double>(bits >> 11) * unit < share;
}

Audits::Audits(const AuditOptions& options)
    : share_(options.share), seed_(options.seed == 0 && enabled() ? system_seed() : options.seed) {}

rexit_draw Audits::draw(const Prompt& prompt, const std::vector<Answer>& answers, const std::vector<float>& zero,
                        rexit_draw problem) noexcept {
  if (!is_drawn(seed_, number_++, share_)) return REXIT_NOT_DRAWN;
  ++counts_.drawn;
  rexit_draw draw = REXIT_SKIPPED_MEMORY;
  try {
    draw = problem == REXIT_DRAWN ? keep(prompt, answers, zero) : problem;
  } catch (...) {  // std::bad_alloc alone; for a rest, GCC 14 calls what the oldest supported C++ library lacks
  }
  if (draw != REXIT_DRAWN) ++counts_.skipped;
  return draw;
}

rexit_draw Audits::keep(const Prompt& prompt, const std::vector<Answer>& answers, const std::vector<float>& zero) {
  if (waits_) return REXIT_SKIPPED_WAITING;
  if (std::any_of(answers.begin(), answers.end(), [](const Answer& answer) { return answer.cut_short || !answer.has_exit(); }))
    return REXIT_SKIPPED_DEADLINE;
  slate_.prompt = prompt;
  slate_.zero = zero;
  slate_.exits.clear();
  slate_.policy_c.clear();
  for (const Answer& answer : answers) {
    slate_.exits.push_back(answer.exit);
    slate_.policy_c.push_back(answer.calibrated);
  }
  slate_.full_c.reserve(answers.size());
  waits_ = true;
  return REXIT_DRAWN;
}

const AuditedSlate& Audits::finish(const std::vector<Answer>& answers) {
  slate_.full_c.clear();
  for (const Answer& answer : answers) slate_.full_c.push_back(answer.calibrated);
  waits_ = false;
  ++counts_.audited;
  return slate_;
}

void Audits::skip() noexcept {
  if (waits_) ++counts_.skipped;
  waits_ = false;
}

void Audits::trim() noexcept {
  skip();
  slate_ = AuditedSlate{};
}

}  // namespace rexit::core
