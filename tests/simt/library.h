// What the test libraries share: errors handed to Python as text, and the harness's settings.
#pragma once

#include <exception>
#include <string>

#include "simt/simt.h"

// Runs `work`; returns what went wrong, or an empty string.
template <class Work>
const char* reported(const Work& work) {
  static std::string message;
  message.clear();
  try {
    work();
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
