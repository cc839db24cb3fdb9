# What this Windows host is. Windows PowerShell 5.1 or PowerShell 7; run as a script block with: <port> <master address>
# Reads only. Prints key<TAB>value lines between two markers, as facts.sh does; whatever a profile prints is ignored.
# Every cmdlet, class and property below is taken from Microsoft's documentation; docs/hosts.md says which and from where.
param($Port, $Master)
$ErrorActionPreference = 'SilentlyContinue'
$Tab = [string][char]9
function Say($Key, $Value) {
  $Text = ("$Value" -replace '\s+', ' ').Trim()
  if ($Text) { [Console]::Out.WriteLine($Key + $Tab + $Text) }
}
function Seconds { ([DateTimeOffset]::UtcNow.ToUnixTimeMilliseconds() / 1000).ToString('F3', [Globalization.CultureInfo]::InvariantCulture) }
function Plain($Name) { ($Name -replace '[^A-Za-z0-9._:-]+', '-').Trim('-') }
[Console]::Out.WriteLine('@@HTUI1')
Say 'clock' (Seconds)
Say 'system' 'Windows'
$Os = Get-CimInstance -ClassName Win32_OperatingSystem
Say 'distribution' $Os.Caption
Say 'kernel' $Os.Version
$Machine = if ($env:PROCESSOR_ARCHITEW6432) { $env:PROCESSOR_ARCHITEW6432 } else { $env:PROCESSOR_ARCHITECTURE }
Say 'architecture' $(switch ($Machine) { 'AMD64' { 'x86_64' } 'ARM64' { 'arm64' } default { $Machine } })
Say 'hostname' $env:COMPUTERNAME
Say 'user' $env:USERNAME
Say 'home' $env:USERPROFILE
$Me = New-Object Security.Principal.WindowsPrincipal([Security.Principal.WindowsIdentity]::GetCurrent())
Say 'sudo' $(if ($Me.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) { 'root' } else { 'no' })
$Cpu = @(Get-CimInstance -ClassName Win32_Processor)
Say 'cpu_count' ($Cpu | Measure-Object -Property NumberOfLogicalProcessors -Sum).Sum
Say 'cpu_model' $Cpu[0].Name
Say 'memory' ('MemTotal ' + $Os.TotalVisibleMemorySize + ' MemAvailable ' + $Os.FreePhysicalMemory)
Say 'machine_id' (Get-ItemProperty -Path 'HKLM:\SOFTWARE\Microsoft\Cryptography').MachineGuid
$Disk = Get-CimInstance -ClassName Win32_LogicalDisk -Filter ("DeviceID='" + $env:SystemDrive + "'")
Say 'disk' ([string][long][Math]::Floor($Disk.FreeSpace / 1024) + ' ' + $env:SystemDrive + '\')
foreach ($Each in Get-NetIPAddress -AddressFamily IPv4) { Say 'address' ((Plain $Each.InterfaceAlias) + ' ' + $Each.IPAddress) }
foreach ($Each in Get-NetIPInterface -AddressFamily IPv4) { Say 'mtu' ((Plain $Each.InterfaceAlias) + ' ' + $Each.NlMtu) }
# Asking for the route to 192.0.2.1 (documentation range) names the default interface and sends nothing.
$To = if ($Master -match '^[0-9.]+$') { $Master } else { '192.0.2.1' }
$Route = Find-NetRoute -RemoteIPAddress $To | Select-Object -First 1
if ($Route) { Say 'route' ('dev ' + (Plain $Route.InterfaceAlias) + ' src ' + $Route.IPAddress) }
Say 'port_listening' @(Get-NetTCPConnection -State Listen -LocalPort $Port).Count
$Tcp = Get-NetTCPSetting -SettingName Internet
$First = [int]$Tcp.DynamicPortRangeStartPort
if ($First) { Say 'ephemeral_ports' ([string]$First + ' ' + ($First + [int]$Tcp.DynamicPortRangeNumberOfPorts - 1)) }
if (@(Get-NetFirewallProfile | Where-Object { "$($_.Enabled)" -eq 'True' }).Count) { Say 'firewall' 'windows-defender' }
foreach ($Each in Get-NetConnectionProfile) { Say 'network_category' ((Plain $Each.InterfaceAlias) + ' ' + $Each.NetworkCategory) }
if (Get-Command nvidia-smi) {
  $Fields = 'index,name,uuid,memory.total,driver_version,compute_cap'
  $Said = @(& nvidia-smi "--query-gpu=$Fields" '--format=csv,noheader,nounits' 2>&1)
  if ($LASTEXITCODE -eq 0) { foreach ($Each in $Said) { Say 'gpu' $Each } } else { Say 'gpu_error' "nvidia-smi exited ${LASTEXITCODE}: $Said" }
}
Say 'path_docker' (Get-Command docker -CommandType Application | Select-Object -First 1).Source
if (Test-Path -Path (Join-Path $env:ProgramFiles 'Docker\Docker\Docker Desktop.exe')) { Say 'docker_desktop' 'yes' }
if ([IO.Directory]::GetFiles('\\.\pipe\') -contains '\\.\pipe\docker_engine') { Say 'engine_socket' 'rw npipe:////./pipe/docker_engine' }
$Python = (Get-Command python -CommandType Application | Select-Object -First 1).Source
if ($Python -and $Python -notlike '*\WindowsApps\*') { Say 'path_python3' $Python }
$Config = Get-Content -Path (Join-Path $env:USERPROFILE '.wslconfig')
$Mode = $Config | Select-String -Pattern '^\s*networkingMode\s*=\s*(\w+)' | Select-Object -First 1
if ($Mode) { Say 'wsl_networking' $Mode.Matches[0].Groups[1].Value }
Say 'clock_end' (Seconds)
[Console]::Out.WriteLine('@@END')
