# Fails if the objects of an instruction set define a global function outside the namespace of the set: the linker could then
# choose this copy of, say, an inline function of the standard library, for code that runs on every processor.
# cmake -DNM=<nm> -DSET=<name> -DOBJECTS=<object>,<object>... -P check_symbols.cmake
string(REPLACE "," ";" OBJECTS "${OBJECTS}")
execute_process(COMMAND ${NM} --extern-only --defined-only --demangle ${OBJECTS} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [TWi] [^\n]+" functions "${symbols}")
if(NOT functions)
  message(FATAL_ERROR "nm found no functions in the objects of ${SET}")
endif()
foreach(function IN LISTS functions)
  if(NOT function MATCHES "^[0-9a-f]+ [TWi] pocketvlm::${SET}::")
    message(FATAL_ERROR "the kernels of ${SET} define a function that other code may share: ${function}")
  endif()
endforeach()
