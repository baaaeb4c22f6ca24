# Fails if the objects of an instruction set define a global symbol outside the namespace of the set: the linker could then
# choose this copy of, say, an inline function of the standard library, for code that runs on every processor.
# cmake -DNM=<nm> -DSET=<name> -DOBJECTS=<object>,<object>... -P check_symbols.cmake
string(REPLACE "," ";" OBJECTS "${OBJECTS}")
execute_process(COMMAND ${NM} --extern-only --defined-only --demangle ${OBJECTS} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [A-Za-z] [^\n]+" symbols "${symbols}")
if(NOT symbols)
  message(FATAL_ERROR "nm found no symbols in the objects of ${SET}")
endif()
foreach(symbol IN LISTS symbols)
  if(NOT symbol MATCHES "^[0-9a-f]+ [A-Za-z] pocketvlm::${SET}::")
    message(FATAL_ERROR "the kernels of ${SET} define a symbol that other code may share: ${symbol}")
  endif()
endforeach()
