# The checks of the code itself, as tests with the label lint. They read the working tree, so that
# they speak up before a commit; see ../README.md.

function(thole_lint name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT;PROCESSORS" "COMMAND")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  if(NOT arg_PROCESSORS)
    set(arg_PROCESSORS 1)
  endif()
  add_test(NAME lint_${name} COMMAND ${arg_COMMAND} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(lint_${name} PROPERTIES LABELS lint TIMEOUT ${arg_TIMEOUT}
                       PROCESSORS ${arg_PROCESSORS})
endfunction()

set(ci "${PROJECT_SOURCE_DIR}/.ci")
thole_lint(deps COMMAND "${ci}/check-deps")
thole_lint(calls COMMAND "${ci}/check-calls")
thole_lint(dialect COMMAND "${ci}/check-dialect")
thole_lint(sizes COMMAND "${ci}/check-sizes")
thole_lint(files COMMAND "${ci}/check-files")
thole_lint(format COMMAND "${ci}/check-format")
thole_lint(checks COMMAND "${ci}/test-checks" TIMEOUT 300)
thole_lint(queries COMMAND "${ci}/check-queries" "${PROJECT_BINARY_DIR}" TIMEOUT 600 PROCESSORS 2)
if(THOLE_FLAVOUR STREQUAL "release")
  thole_lint(fuzz COMMAND "${ci}/check-fuzz" "${THOLE_UPB_DIR}" TIMEOUT 1800 PROCESSORS 2)
endif()
thole_lint(tidy COMMAND "${ci}/check-tidy" "${PROJECT_BINARY_DIR}" TIMEOUT 1800 PROCESSORS 2)
