#define POCKETVLM_ISA avx512vnni
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
